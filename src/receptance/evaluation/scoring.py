"""How likely a model finds given tokens after given others, for many of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from receptance.evaluation.contexts import BATCH_SIZE, Read, padded, read_contexts
from receptance.inference.reading import SPAN
from receptance.models import AnyModel, State
from receptance.runtimes import NativeModel

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
    # Continuations of like lengths are read together.
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].continuation))
    contexts = [requests[index].context for index in order]
    read = read_contexts(model, contexts, state=state, batch_size=batch_size)
    return _scores(model, requests, order, read)


@torch.inference_mode()
def _scores(
    model: AnyModel | NativeModel, requests: Sequence[Request], order: Sequence[int], read: Iterator[Read]
) -> Iterator[tuple[int, Scored]]:
    for places, logits, state in read:
        indices = [order[place] for place in places]
        continuations = [requests[index].continuation for index in indices]
        yield from zip(indices, _scored(model, continuations, logits, state), strict=True)


def _scored(
    model: AnyModel | NativeModel,
    continuations: Sequence[Sequence[int]],
    logits: Float[Tensor, "batch vocabulary"],
    state: State,
) -> Iterator[Scored]:
    """Yield the scores of continuations; the logits are those of their first tokens."""
    tokens, lengths = padded(model, continuations)
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
