"""Which tokens of a text a prediction rests on, by exact ablation of the state.

All that a recurrent model knows of a token is what the token did to the state. So the state after it is
replaced by the state before it, and the rest of the text is read from there, as if this token had left no
trace. With p(. | x_<j) for the prediction of token j, the influence of an earlier token i on it is

    divergence  D(j, i) = KL( p(. | x_<j) || p(. | x_<j without x_i) )           in nats, at least 0
    gain        G(j, i) = log p(x_j | x_<j) - log p(x_j | x_<j without x_i)      in nats

The divergence says how far the token moves the prediction, whatever came; the gain how much likelier it made
what did come, below zero if less likely. Nothing is approximated. n tokens take n runs, each from the token
that it leaves out onwards, n (n - 1) / 2 tokens in all, as rows of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.inspection.memory import states_along
from receptance.inspection.predictions import log_softmax
from receptance.models import AnyModel, State

# What bounds the memory that a batch takes: its tokens, the bytes of its states, the logits held at once.
BATCH_TOKENS = 8192
BATCH_STATE_BYTES = 2**28
LOGITS = 2**23


@dataclass(frozen=True, kw_only=True)
class Influence:
    """How each token acts on each later prediction; see the formulas of this module.

    Row j is the prediction of token j, the last row that of the token after the text; column i is the token
    that is left out. NaN where i >= j, in the last row of the gain, since what comes there is not known, and
    where nothing would be left to predict from.
    """

    divergence: Float[Tensor, "prediction token"]
    gain: Float[Tensor, "prediction token"]

    @property
    def by_distance(self) -> Float[Tensor, " distance"]:
        """Mean divergence by how far back the token lies: the first is the token just before."""
        count = self.divergence.shape[1]
        return torch.stack([self.divergence.diagonal(-back).nanmean() for back in range(1, count + 1)])

    def reach(self, share: float) -> int:
        """Return how many tokens back one must go for this share of the sum of `by_distance`."""
        influence = self.by_distance.nan_to_num()  # a text of which nothing is left has none
        reached = influence.cumsum(0) >= share * influence.sum()
        return int(reached.nonzero()[0]) + 1


@torch.inference_mode()
def influence(
    model: AnyModel,
    tokens: Int[Tensor, " token"],
    log_probabilities: Float[Tensor, "prediction vocabulary"],
    state: State | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Influence:
    """Leave out each token in turn, and compare every later prediction with the one of the whole text.

    log_probabilities  of the whole text, as `Predictions` has them
    state              what the model remembers before the text, a batch of one
    advance            is told how many of the tokens are done
    """
    count = len(tokens)
    found = Influence(
        divergence=log_probabilities.new_full((count + 1, count), torch.nan),
        gain=log_probabilities.new_full((count + 1, count), torch.nan),
    )
    start = model.initial_state(1) if state is None else state
    rows = max(1, min(BATCH_TOKENS // count, BATCH_STATE_BYTES // start.num_bytes))
    along = states_along(model, tokens, state)
    for left_out in torch.split(torch.arange(count, device=tokens.device), rows):
        states = [start, *islice(along, len(left_out))]
        start = states.pop()
        # Without the last token before it, a prediction is the one that was made a token earlier.
        _note(found, left_out + 1, left_out, log_probabilities, log_probabilities[left_out], tokens)
        for positions, columns, without in _without(model, tokens, left_out, states):
            _note(found, positions, columns, log_probabilities, without, tokens)
        advance(int(left_out[-1]) + 1, count)
    return found


def _without(
    model: AnyModel, tokens: Tensor, left_out: Tensor, states: Sequence[State]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield later predictions without each of these tokens: which, without which, and log-probabilities."""
    lengths = len(tokens) - 1 - left_out
    time = torch.arange(int(lengths[0]), device=tokens.device)
    if len(time) == 0:
        return
    rest = tokens[(left_out[:, None] + 1 + time).clamp_max(len(tokens) - 1)]
    hidden, _ = model.features(rest, _as_rows(states), lengths)
    real = (time < lengths[:, None]).nonzero()
    for part in torch.split(real, max(1, LOGITS // model.config.vocabulary_size)):
        row, column = part.unbind(1)
        yield left_out[row] + column + 2, left_out[row], log_softmax(model.head(hidden[row, column]))


def _note(
    found: Influence, positions: Tensor, left_out: Tensor, whole: Tensor, without: Tensor, tokens: Tensor
) -> None:
    """Write down how predictions of the whole text differ from those without a token."""
    p = whole[positions]
    found.divergence[positions, left_out] = (p.exp() * (p - without)).sum(-1).clamp_min(0.0)
    known = positions < len(tokens)
    came = tokens[positions[known], None]
    gain = (p[known].gather(-1, came) - without[known].gather(-1, came)).squeeze(-1)
    found.gain[positions[known], left_out[known]] = gain


def _as_rows(states: Sequence[State]) -> State:
    """Return the states of single texts as that of a batch."""
    columns = zip(*(state.tensors().values() for state in states), strict=True)
    names = states[0].tensors()
    return type(states[0])(
        **{name: torch.cat(column, dim=1) for name, column in zip(names, columns, strict=True)}
    )
