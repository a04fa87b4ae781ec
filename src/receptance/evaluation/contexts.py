"""Many contexts read in batches, those that begin alike together as far as they are alike.

What several share, such as the examples before all questions of a task or the question before its choices,
becomes one state, from which each goes on. So the contexts form a tree. It is walked depth first in batches,
and no more states are kept than the batches on the way down have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference.reading import SPAN, require_known
from receptance.models import AnyModel, LanguageModel, State
from receptance.runtimes import NativeModel

T = TypeVar("T")

BATCH_SIZE = 16
WORTH_SHARING = 8  # tokens; what fewer are shared is read again, which costs less than forking a state


class Read(NamedTuple):
    """Contexts that were read, by their indices; the logits of what follows each; the states after them."""

    indices: list[int]
    logits: Float[Tensor, "batch vocabulary"]
    state: State


def read_contexts(
    model: AnyModel | NativeModel,
    contexts: Sequence[Sequence[int]],
    *,
    state: State | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Read]:
    """Read every context, and yield them in batches as they are ready.

    Those that are ready together come in the order of their indices.

    state       what the model remembers before every context, a batch of one; None: nothing
    batch_size  how many texts are read at once; it changes nothing but speed, memory and rounding

    Raises ConfigError for an empty context, an unknown token or a batch size below one.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, but it must be at least 1.")
    if not all(map(len, contexts)):
        raise ConfigError(
            "a context is empty, so nothing predicts what follows it: begin it with a line break or the "
            "end-of-text token."
        )
    return _walk(model, [tuple(each) for each in contexts], state or model.initial_state(1), batch_size)


@dataclass(frozen=True)
class _Branch:
    """Contexts, in order, which share the tokens from `begin` to `end`."""

    members: Sequence[int]
    begin: int
    end: int


@torch.inference_mode()
def _walk(
    model: AnyModel | NativeModel, contexts: Sequence[tuple[int, ...]], start: State, batch_size: int
) -> Iterator[Read]:
    def batches(branches: list[tuple[_Branch, int]]) -> Iterator[Sequence[tuple[_Branch, int]]]:
        # The last, of the longest, is the first to be walked.
        return _batches(sorted(branches, key=lambda pair: pair[0].end - pair[0].begin), batch_size)

    in_order = sorted(range(len(contexts)), key=contexts.__getitem__)
    roots = [(branch, 0) for branch in _branches(contexts, in_order, 0)]
    pending = [(batch, start) for batch in batches(roots)]
    while pending:
        batch, before = pending.pop()  # branches, each with the row of the state that it goes on from
        spans = [contexts[branch.members[0]][branch.begin : branch.end] for branch, _ in batch]
        logits, after = _next_logits(model, spans, fork(before, [row for _, row in batch]))
        ready, children = [], []
        for row, (branch, _) in enumerate(batch):
            ended = [index for index in branch.members if len(contexts[index]) == branch.end]
            ready += [(index, row) for index in ended]
            rest = branch.members[len(ended) :]  # the shorter of two that begin alike comes first
            children += [(child, row) for child in _branches(contexts, rest, branch.end)]
        pending += [(below, after) for below in batches(children)]
        for part in _batches(sorted(ready), batch_size):
            rows = [row for _, row in part]
            yield Read([index for index, _ in part], logits[rows], fork(after, rows))


def _branches(contexts: Sequence[tuple[int, ...]], members: Sequence[int], begin: int) -> list[_Branch]:
    """Return the branches of contexts that share everything before `begin`."""
    branches = []
    for _, group in groupby(members, key=lambda index: contexts[index][begin : begin + WORTH_SHARING]):
        alike = list(group)
        # What the first and the last in order share, all share.
        first, last = contexts[alike[0]], contexts[alike[-1]]
        end = min(len(first), len(last))
        end = next((place for place in range(begin, end) if first[place] != last[place]), end)
        branches.append(_Branch(alike, begin, end))
    return branches


def _batches(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (things[begin : begin + size] for begin in range(0, len(things), size))


def fork(state: State, rows: Sequence[int]) -> State:
    """Return the states of these rows of a batch, as often as they are named."""
    index = torch.tensor(rows)
    return state.map(lambda tensor: tensor.index_select(1, index.to(tensor.device)))


def _next_logits(
    model: AnyModel | NativeModel, spans: Sequence[Sequence[int]], state: State
) -> tuple[Float[Tensor, "batch vocabulary"], State]:
    """Read spans of tokens, none of them empty, and return the logits of what follows each."""
    tokens, lengths = padded(model, spans)
    logits = torch.empty(len(spans), model.config.vocabulary_size, device=model.device, dtype=model.dtype)
    for begin in range(0, tokens.shape[1], SPAN):
        part = tokens[:, begin : begin + SPAN].contiguous()
        read = (lengths - begin).clamp(0, part.shape[1])
        if isinstance(model, LanguageModel):
            features, state = model.features(part, state, read)
            last = model.head(features[torch.arange(len(part), device=read.device), read - 1])
        else:
            last, state = model(part, state, read, last_only=True)
            last = last[:, 0]
        logits[read > 0] = last[read > 0]
    return logits, state


def padded(
    model: AnyModel | NativeModel, spans: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "batch time"], Int[Tensor, " batch"]]:
    """Return spans of tokens as rows, and their lengths."""
    rows = [torch.tensor(span, dtype=torch.int64) for span in spans]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    require_known(tokens, model.config.vocabulary_size)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens.to(model.device), lengths.to(model.device)
