"""Which tokens of a text a prediction rests on, by exact ablation of the state.

All that a recurrent model knows of a token is what the token did to the state. So the state after it is
replaced by the state before it, and the rest of the text is read from there, as if this token had left no
trace. With p(. | x_<j) for the prediction of token j, the influence of an earlier token i on it is

    divergence  D(j, i) = KL( p(. | x_<j) || p(. | x_<j without x_i) )           in nats, at least 0
    gain        G(j, i) = log p(x_j | x_<j) - log p(x_j | x_<j without x_i)      in nats

The divergence says how far the token moves the prediction, whatever came; the gain how much likelier it made
did come, below zero if less likely. Nothing is approximated: in float64 both are those of separate runs,
in float32 they are right to 1e-5 nats.

n tokens take n runs, each from the token that it leaves out onwards, n (n - 1) / 2 tokens in all. They are
the rows of batches, of which each is one token ahead of the row above it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from receptance.inspection.memory import states_along
from receptance.inspection.predictions import log_softmax
from receptance.models import AnyModel, State
from receptance.runtimes import NativeModel

# What a batch is at most: its rows, the bytes of their states, the logits held at once.
ROWS = 32
STATE_BYTES = 2**28
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
    model: AnyModel | NativeModel,
    tokens: Int[Tensor, " token"],
    log_probabilities: Float[Tensor, "prediction vocabulary"],
    state: State | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Influence:
    """Leave out each token in turn, and compare every later prediction with the one of the whole text.

    log_probabilities  of the whole text, as `Predictions` has them; two copies of them are made
    state              what the model remembers before the text, a batch of one
    advance            is told how many tokens were read without an earlier one, and how many are to be
    """
    count = len(tokens)
    start = model.initial_state(1) if state is None else state
    rows = max(1, min(ROWS, STATE_BYTES // start.num_bytes))
    span = max(1, min(count, LOGITS // (rows * model.config.vocabulary_size)))
    comparison = _Comparison(log_probabilities, tokens, span)
    along = states_along(model, tokens, state)
    done, total = 0, count * (count - 1) // 2
    for first in range(0, count, rows):
        states = [start, *islice(along, rows)]
        # That after the group's last token is the one before the next group.
        start = states.pop()
        # Without the last token before it, a prediction is the one that was made a token earlier.
        comparison.note(first, first + 1, log_probabilities[first : first + len(states), None].clone())
        forked = _as_rows(states)
        rest = count - 1 - first  # of the first row; each has one less than the row before
        for begin in range(0, rest, span):
            going_on, time = min(len(states), rest - begin), min(span, rest - begin)
            read = comparison.tokens[first + 1 + begin :].unfold(0, time, 1)[:going_on]
            logits, forked = model(read, _first_rows(forked, going_on))
            comparison.note(first, first + 2 + begin, log_softmax(logits))
            done += sum(min(time, rest - begin - row) for row in range(going_on))
            advance(done, total)
    return comparison.influence()


class _Comparison:
    """The predictions of the whole text, and how those without a token differ.

    The rows of a batch do not end together. Those that have ended read on to the end of the span, so all here
    is as much longer than the text; what is noted there is cut off in the end.
    """

    def __init__(self, log_probabilities: Tensor, tokens: Tensor, span: int) -> None:
        self.tokens = F.pad(tokens, (0, span))
        self._log_p = F.pad(log_probabilities, (0, 0, 0, span))
        self._p = self._log_p.exp()
        self._divergence = self._p.new_full((len(self._p), len(tokens)), torch.nan)
        self._gain = self._divergence.clone()

    def note(self, left_out: int, position: int, log_q: Float[Tensor, "row time vocabulary"]) -> None:
        """Compare predictions in rows, the first without this token and from this position on.

        The token and the position of each further row are one further. The memory of `log_q` is used.
        """
        rows, time, _ = log_q.shape
        row = torch.arange(rows, device=log_q.device)[:, None]
        positions = position + row + torch.arange(time, device=log_q.device)
        log_p, p = (
            each[position:].unfold(0, time, 1)[:rows].transpose(1, 2) for each in (self._log_p, self._p)
        )
        change = log_q.neg_().add_(log_p)
        came = self.tokens[positions]
        self._gain[positions, left_out + row] = change.gather(-1, came[..., None]).squeeze(-1)
        self._divergence[positions, left_out + row] = change.mul_(p).sum(-1).clamp_min(0.0)

    def influence(self) -> Influence:
        """Return what was noted, up to the prediction of the token after the text."""
        predictions = self._gain.shape[1] + 1
        self._gain[predictions - 1] = torch.nan  # what comes there is not known
        return Influence(divergence=self._divergence[:predictions], gain=self._gain[:predictions])


def _as_rows(states: Sequence[State]) -> State:
    """Return the states of single texts as that of a batch."""
    columns = zip(*(state.tensors().values() for state in states), strict=True)
    names = states[0].tensors()
    return type(states[0])(
        **{name: torch.cat(column, dim=1) for name, column in zip(names, columns, strict=True)}
    )


def _first_rows(state: State, count: int) -> State:
    return state.map(lambda tensor: tensor[:, :count])
