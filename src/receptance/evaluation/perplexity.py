"""How well a model predicts whole texts: the loss of each token, and what follows from it.

A text is read once, with the state carried from its first token to its last, however long it is; or, as
models with a window have to, in windows that each begin anew.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from receptance.errors import ConfigError
from receptance.evaluation.contexts import BATCH_SIZE
from receptance.evaluation.scoring import Request, score
from receptance.models import AnyModel, State
from receptance.runtimes import NativeModel


@dataclass(frozen=True, kw_only=True)
class Window:
    """Windows of `size` tokens, each `stride` tokens after the one before, and each read from the start.

    A token is scored in the first window that holds it: with at most `size - 1` tokens of the text before it,
    and, beyond the first window, at least `size - stride`. The windows of stride `size` do not overlap.
    """

    size: int
    stride: int

    def __post_init__(self) -> None:
        """Refuse windows that would hold nothing, or leave tokens out."""
        if self.size < 1:
            raise ConfigError(f"the size of the windows is {self.size}, but it must be at least 1.")
        if not 1 <= self.stride <= self.size:
            raise ConfigError(
                f"the stride of the windows is {self.stride}, but it must be from 1 to their size, "
                f"{self.size}."
            )

    def requests(self, text: Sequence[int], prefix: Sequence[int]) -> Iterator[Request]:
        """Yield the windows of a text, whose continuations are the whole text."""
        for begin in range(0, max(1, len(text) - self.size + self.stride), self.stride):
            scored = begin + self.size - self.stride if begin else 0
            yield Request([*prefix, *text[begin:scored]], text[scored : begin + self.size])


def token_losses(
    model: AnyModel | NativeModel,
    texts: Sequence[Sequence[int]],
    *,
    prefix: Sequence[int],
    window: Window | None = None,
    state: State | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[int, Float[Tensor, " token"]]]:
    """Yield (index of a text, the loss of each of its tokens in nats), in the order in which they are ready.

    prefix      what is read before a text, such as a line break or the end-of-text token; at least one token
    window      None reads every text once, from its beginning to its end
    state       what the model remembers before every text, a batch of one; None: nothing
    batch_size  how many texts, or windows, are read at once

    Raises ConfigError for an empty prefix, an unknown token or a batch size below one.
    """
    parts = [list(window.requests(text, prefix)) if window else [Request(prefix, text)] for text in texts]
    places = [(text, part) for text, requests in enumerate(parts) for part in range(len(requests))]
    requests = list(itertools.chain.from_iterable(parts))
    scores = score(model, requests, state=state, batch_size=batch_size)
    return _joined(parts, ((*places[index], -each.log_probabilities) for index, each in scores))


def _joined(
    parts: Sequence[Sequence[Request]], losses: Iterable[tuple[int, int, Tensor]]
) -> Iterator[tuple[int, Tensor]]:
    """Yield the losses of each text when those of all its windows are there."""
    waiting: dict[int, dict[int, Tensor]] = defaultdict(dict)
    for text, part, loss in losses:
        waiting[text][part] = loss
        if len(waiting[text]) == len(parts[text]):
            yield text, torch.cat([loss for _, loss in sorted(waiting.pop(text).items())])


@dataclass(frozen=True)
class PositionLoss:
    """The loss of the tokens from position `begin`, the first being 0, to `end`, not included.

    nats            mean over the texts and the positions
    standard_error  of that mean, from text to text; NaN of a single text
    texts           how many texts it is the mean of
    """

    begin: int
    end: int
    nats: float
    standard_error: float
    texts: int


def by_position(
    losses: Iterable[Float[Tensor, " token"]], length: int, edges: Sequence[int] | None = None
) -> list[PositionLoss]:
    """Return the loss by the position of the token in its text: what a longer context is worth.

    The first `length` tokens of those texts that have as many are taken, the same texts at every position.

    losses  of each text, as `token_losses` gives them
    edges   where the ranges of positions begin, in order, the first 0; None: 0, 1, 2, 4, 8 and so on

    Raises ConfigError when no text is so long, or the edges are not in order.
    """
    taken = [loss[:length] for loss in losses if len(loss) >= length]
    if not taken:
        raise _too_short(length)
    edges = [0, *(2**power for power in range(length.bit_length()))] if edges is None else edges
    borders = [*(edge for edge in edges if edge < length), length]
    if borders[0] != 0 or any(a >= b for a, b in itertools.pairwise(borders)):
        raise ConfigError(f"edges are {list(edges)}, but they must begin with 0 and rise.")
    table = torch.stack(taken).double()
    return [_mean_loss(begin, end, table[:, begin:end].mean(1)) for begin, end in itertools.pairwise(borders)]


def by_position_from_sums(sums: Iterable[Sequence[float]], length: int) -> list[PositionLoss]:
    """Return what `by_position` does, of the losses of the first 1, 2, 4, 8 and so on tokens of each text.

    length  a power of two

    Raises ConfigError when no text is so long, or the length is no power of two.
    """
    steps = length.bit_length()
    if length != 2 ** (steps - 1):
        raise ConfigError(f"the length is {length:,}, but it must be a power of two, such as 1024.")
    taken = [list(each[:steps]) for each in sums if len(each) >= steps]
    if not taken:
        raise _too_short(length)
    table = torch.tensor(taken, dtype=torch.float64)
    table = torch.cat([table[:, :1], table.diff(dim=1)], dim=1)
    borders = [0, *(2**power for power in range(steps))]
    ranges = zip(itertools.pairwise(borders), table.T, strict=True)
    return [_mean_loss(begin, end, nats / (end - begin)) for (begin, end), nats in ranges]


def _mean_loss(begin: int, end: int, means: Float[Tensor, " text"]) -> PositionLoss:
    error = float(means.std()) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return PositionLoss(begin, end, float(means.mean()), error, len(means))


def _too_short(length: int) -> ConfigError:
    return ConfigError(f"no text has {length:,} tokens, so there is no loss by position up to there.")
