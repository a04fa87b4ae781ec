"""The gradient of a long context, of which only one chunk at a time is in memory.

A model hands its state on from chunk to chunk, so reading in chunks is reading in one go. Going back:

    full       the chunks are read once for the states between them, which alone are kept; then, from the last
               chunk to the first, each is read again from its state, with the gradient of its end state
               coming from the chunk after it. That is the gradient of one long pass, for one more forward.
    truncated  the gradient of a chunk is taken at once, and ends where the chunk begins: truncated
               backpropagation through time. Memory does not grow with the context at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from receptance.data.windows import Batch
from receptance.models import State

ChunkGradient = Literal["full", "truncated"]


class Read(Protocol):
    """Reads a chunk, the same way whenever it is asked: dropout follows from the number of the chunk."""

    def __call__(
        self, number: int, chunk: Batch, state: State | None, *, needs_loss: bool = True
    ) -> tuple[Tensor, Tensor, State]:
        """Return the mean loss to differentiate, the mean nats per token, and the state after the chunk.

        Without a state the text begins here. Where no loss is needed, both losses may be any numbers.
        """


def backward(
    read: Read, chunks: Sequence[Batch], num_learnt: int, gradient: ChunkGradient
) -> Iterator[Tensor]:
    """Add the gradient of a batch to the weights', chunk by chunk, and yield each chunk's part of the loss.

    `chunks` are one after the other in time, as `Batch.chunks` cuts them. The loss is their sum over the
    targets divided by `num_learnt`, those of the whole step; what is yielded are nats, in float64. Between
    two of them, the gradients may be taken elsewhere and freed.
    """
    weights = [chunk.num_learnt / num_learnt for chunk in chunks]
    if gradient == "truncated":
        yield from _truncated(read, chunks, weights)
    else:
        yield from _full(read, chunks, weights)


def _truncated(read: Read, chunks: Sequence[Batch], weights: Sequence[float]) -> Iterator[Tensor]:
    state = None
    for number, (chunk, weight) in enumerate(zip(chunks, weights, strict=True)):
        loss, nats, end = read(number, chunk, state)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        state = end.detach()
        del loss, end  # which hold the graph
        yield nats.double() * weight


def _full(read: Read, chunks: Sequence[Batch], weights: Sequence[float]) -> Iterator[Tensor]:
    starts: list[State | None] = [None]
    with torch.no_grad():
        for number, chunk in enumerate(chunks[:-1]):
            *_, end = read(number, chunk, starts[-1], needs_loss=False)
            starts.append(end)
    from_later: list[Tensor] = []  # the gradients of the tensors of the end state
    for number in reversed(range(len(chunks))):
        start = starts.pop()
        if start is not None:
            start = start.map(lambda tensor: tensor.detach().requires_grad_())
        loss, nats, end = read(number, chunks[number], start)
        ends = list(end.tensors().values()) if from_later else []
        torch.autograd.backward([loss * weights[number], *ends], [None, *from_later])
        if start is not None:
            tensors = start.tensors().values()
            from_later = [torch.zeros_like(x) if x.grad is None else x.grad for x in tensors]
        del loss, end, ends, start  # which hold the graph
        yield nats.double() * weights[number]
