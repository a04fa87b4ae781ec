"""How likely a model finds given tokens after given others, for many of them at once.

Contexts that begin alike are read once: what several share, such as the examples before all questions of a
task or the question before its choices, becomes one state, from which each goes on. So the contexts form a
tree. It is walked depth first in batches, and no more states are kept than the batches on the way down have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference.reading import SPAN, require_known
from receptance.models import AnyModel, LanguageModel, State
from receptance.runtimes import NativeModel

T = TypeVar("T")

BATCH_SIZE = 16
WORTH_SHARING = 8  # tokens; what fewer are shared is read again, which costs less than forking a state
LOGITS_AT_ONCE = 2**25  # numbers


@dataclass(frozen=True)
class Request:
    """Tokens to score, and what is read before them: at least one token, which predicts the first."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True)
class Scored:
    """What a model says of each token of a continuation: its log probability, and if none is likelier."""

    log_probabilities: Float[Tensor, " token"]  # natural logarithms
    is_likeliest: Bool[Tensor, " token"]

    @property
    def log_likelihood(self) -> float:
        """Log probability of the whole continuation, in nats."""
        return float(self.log_probabilities.sum(dtype=torch.float64))

    @property
    def is_greedy(self) -> bool:
        """Whether a model that always writes the likeliest token writes this continuation."""
        return bool(self.is_likeliest.all())


def score(
    model: AnyModel | NativeModel,
    requests: Sequence[Request],
    *,
    state: State | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[int, Scored]]:
    """Yield (index of a request, its scores) for every request, in the order in which they are ready.

    state       what the model remembers before every context, a batch of one; None: nothing
    batch_size  how many texts are read at once; it changes nothing but speed, memory and rounding

    Raises ConfigError for an empty context, an unknown token or a batch size below one.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, but it must be at least 1.")
    if any(not len(request.context) for request in requests):
        raise ConfigError(
            "a request has an empty context, so nothing predicts its first token: begin it with a line break "
            "or the end-of-text token."
        )
    return _walk(model, requests, state or model.initial_state(1), batch_size)


@dataclass(frozen=True)
class _Branch:
    """Requests, in the order of their contexts, which share the tokens from `begin` to `end`."""

    requests: Sequence[int]
    begin: int
    end: int


@torch.inference_mode()
def _walk(
    model: AnyModel | NativeModel, requests: Sequence[Request], start: State, batch_size: int
) -> Iterator[tuple[int, Scored]]:
    contexts = [tuple(request.context) for request in requests]
    in_order = sorted(range(len(requests)), key=contexts.__getitem__)

    def batches(branches: list[tuple[_Branch, int]]) -> Iterator[Sequence[tuple[_Branch, int]]]:
        # The last, of the longest, is the first to be walked.
        return _batches(sorted(branches, key=lambda pair: pair[0].end - pair[0].begin), batch_size)

    roots = [(branch, 0) for branch in _branches(contexts, in_order, 0)]
    pending = [(batch, start) for batch in batches(roots)]
    while pending:
        batch, before = pending.pop()  # branches, each with the row of the state that it goes on from
        spans = [contexts[branch.requests[0]][branch.begin : branch.end] for branch, _ in batch]
        logits, after = _next_logits(model, spans, _fork(before, [row for _, row in batch]))
        ends, children = [], []
        for row, (branch, _) in enumerate(batch):
            ended = [index for index in branch.requests if len(contexts[index]) == branch.end]
            ends += [(index, row) for index in ended]
            rest = branch.requests[len(ended) :]  # the shorter of two that begin alike comes first
            children += [(child, row) for child in _branches(contexts, rest, branch.end)]
        pending += [(below, after) for below in batches(children)]
        ends.sort(key=lambda pair: len(requests[pair[0]].continuation))
        for part in _batches(ends, batch_size):
            indices, rows = [index for index, _ in part], [row for _, row in part]
            continuations = [requests[index].continuation for index in indices]
            yield from zip(
                indices, _scored(model, continuations, logits[rows], _fork(after, rows)), strict=True
            )


def _branches(contexts: Sequence[tuple[int, ...]], requests: Sequence[int], begin: int) -> list[_Branch]:
    """Return the branches of requests that share everything before `begin`."""
    branches = []
    for _, group in groupby(requests, key=lambda index: contexts[index][begin : begin + WORTH_SHARING]):
        members = list(group)
        # What the first and the last in order share, all share.
        first, last = contexts[members[0]], contexts[members[-1]]
        end = min(len(first), len(last))
        end = next((place for place in range(begin, end) if first[place] != last[place]), end)
        branches.append(_Branch(members, begin, end))
    return branches


def _batches(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (things[begin : begin + size] for begin in range(0, len(things), size))


def _fork(state: State, rows: Sequence[int]) -> State:
    index = torch.tensor(rows)
    return state.map(lambda tensor: tensor.index_select(1, index.to(tensor.device)))


def _next_logits(
    model: AnyModel | NativeModel, spans: Sequence[Sequence[int]], state: State
) -> tuple[Float[Tensor, "batch vocabulary"], State]:
    """Read spans of tokens, none of them empty, and return the logits of what follows each."""
    tokens, lengths = _padded(model, spans)
    logits = torch.empty(len(spans), model.config.vocabulary_size, device=model.device, dtype=model.dtype)
    for begin in range(0, tokens.shape[1], SPAN):
        part = tokens[:, begin : begin + SPAN].contiguous()
        read = (lengths - begin).clamp(0, part.shape[1])
        if isinstance(model, LanguageModel):
            features, state = model.features(part, state, read)
            last = model.head(features[torch.arange(len(part)), read - 1])
        else:
            last, state = model(part, state, read, last_only=True)
            last = last[:, 0]
        logits[read > 0] = last[read > 0]
    return logits, state


def _scored(
    model: AnyModel | NativeModel,
    continuations: Sequence[Sequence[int]],
    logits: Float[Tensor, "batch vocabulary"],
    state: State,
) -> Iterator[Scored]:
    """Yield the scores of continuations; the logits are those of their first tokens."""
    tokens, lengths = _padded(model, continuations)
    batch, time = tokens.shape
    log_probabilities = torch.empty(batch, time)
    is_likeliest = torch.empty(batch, time, dtype=torch.bool)

    def put(begin: int, logits: Float[Tensor, "batch span vocabulary"]) -> None:
        following = tokens[:, begin : begin + logits.shape[1]]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = logits.gather(-1, following[..., None])[..., 0] - logits.logsumexp(-1)
        log_probabilities[:, begin : begin + logits.shape[1]] = chosen
        is_likeliest[:, begin : begin + logits.shape[1]] = logits.argmax(-1) == following

    if time:
        put(0, logits[:, None])
    span = max(1, min(SPAN, LOGITS_AT_ONCE // logits.numel()))
    for begin in range(0, time - 1, span):
        part = tokens[:, begin : min(begin + span, time - 1)].contiguous()
        read = (lengths - 1 - begin).clamp(0, part.shape[1])
        logits, state = model(part, state, read)
        put(begin + 1, logits)
    for row, length in enumerate(lengths.tolist()):
        yield Scored(log_probabilities[row, :length].clone(), is_likeliest[row, :length].clone())


def _padded(
    model: AnyModel | NativeModel, spans: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "batch time"], Int[Tensor, " batch"]]:
    """Return spans of tokens as rows, and their lengths."""
    rows = [torch.tensor(span, dtype=torch.int64) for span in spans]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    require_known(tokens, model.config.vocabulary_size)
    lengths = torch.tensor([len(row) for row in rows])
    return tokens.to(model.device), lengths.to(model.device)
