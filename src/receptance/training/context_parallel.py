"""Context parallelism: several processes share each sample, and hand the state on from one to the next.

The sample is cut into chunks, which the processes read in turn: of c processes, process p reads the chunks
p, p + c, p + 2c, … The model itself is not cut. Its state is handed on layer by layer, so that the next
process reads its chunk one layer behind this one, rather than after it; the gradients of those states come
back in the same way. So with n chunks for each process, and l layers, all work side by side but for the time
of c - 1 layers at the beginning and at the end. The share of its time in which a process waits, the bubble,
is

    (c - 1) / (n l + c - 1):

a ninth for 4 processes with one chunk each of a model of 24 layers. What is sent is the state of a layer,
whose size does not depend on the length of the chunk, to one process alone.

The gradient is that of `chunks`: `full`, where a process keeps the graph of one chunk at a time, and so reads
those before its last one twice; or `truncated`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import register_multi_grad_hook

from receptance.data.windows import Batch
from receptance.errors import ConfigError, DivergenceError
from receptance.models import AnyModel, State
from receptance.training.chunks import ChunkGradient, backward
from receptance.training.distributed import ALONE, PATIENCE, World, contact
from receptance.training.reading import Reader, Reading

Layer = tuple[Tensor, ...]  # the state of one layer of a batch, in the order of the fields


@dataclass(kw_only=True)
class Neighbour:
    """The process that reads the chunks before this one's, or after them.

    Each pair has a group of its own for that, because GPUs obey the orders of a group one after the other.
    """

    rank: int
    group: dist.ProcessGroup
    world: World
    _sent: list[tuple[dist.Work | None, Tensor]] = field(default_factory=list)

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Begin to send tensors, and keep them until they have arrived."""
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            with contact(self.world):
                self._sent.append((dist.isend(whole, self.rank, self.group), whole))

    def receive(self, like: Sequence[Tensor]) -> Layer:
        """Wait for tensors of these shapes and number formats."""
        tensors = tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in like)
        with contact(self.world):
            for tensor in tensors:
                dist.recv(tensor, self.rank, self.group)
        return tensors

    def wait(self) -> None:
        """Wait until all that was sent has arrived."""
        with contact(self.world):
            for work, _ in self._sent:
                if work is not None:
                    work.wait()
        self._sent.clear()


@dataclass(kw_only=True)
class Relay:
    """The processes that share a sample, as one of them sees them; by itself, one that reads samples alone.

    All of them must read the same batches in the same order.
    """

    world: World = ALONE
    size: int = 1  # processes that share a sample
    before: Neighbour | None = None
    after: Neighbour | None = None
    _fault: DivergenceError | None = None  # of the step

    @property
    def place(self) -> int:
        """Which of them this process is, from 0."""
        return self.world.rank % self.size

    @property
    def team(self) -> int:
        """Which of the groups that share a sample this process belongs to, from 0."""
        return self.world.rank // self.size

    @property
    def num_teams(self) -> int:
        """How many such groups there are, each with samples of its own."""
        return self.world.size // self.size

    def chunks(self, batch: Batch, size: int, gradient: ChunkGradient) -> list[Batch]:
        """Cut a batch into chunks of at most `size` tokens (0: any), one or more for each process.

        With the truncated gradient they are of that size, because where it ends is no matter of speed.
        """
        if self.size == 1 or gradient == "truncated":
            return batch.chunks(size)
        share = -(-batch.tokens.shape[1] // self.size)
        return batch.chunks(min(size or share, share))

    def own(self, chunks: Sequence[Batch]) -> Sequence[Batch]:
        """Return those chunks of a batch that this process reads."""
        return chunks[self.place :: self.size]

    def backward(
        self,
        reader: Reader,
        place: tuple[int, ...],
        chunks: Sequence[Batch],
        num_learnt: int,
        gradient: ChunkGradient,
    ) -> Iterator[Tensor]:
        """Add the gradient of this process's chunks to the weights', as `chunks.backward` does.

        Together the processes do what one does with all chunks. Raises DivergenceError where what came of a
        chunk is not finite: at once in a process by itself, but from `finish` where others wait for this one.
        """
        if self.size == 1:
            yield from backward(partial(reader.learn, place), chunks, num_learnt, gradient)
            return
        own = range(self.place, len(chunks), self.size)
        if not own:  # This process too needs gradients to add to those of the others.
            found = reader.read(place, 0, chunks[0])
            (found.loss * 0).backward()  # type: ignore[no-untyped-call]
            yield found.nats.double() * 0
            return
        first_passages: dict[int, Passage] = {}  # of the chunks that are read twice

        def passage(number: int, **how: Any) -> Passage:
            before = self.before if number > 0 else None
            after = self.after if number + 1 < len(chunks) else None
            return Passage(number=number, before=before, after=after, **how)

        def learn(passage: Passage) -> Tensor:
            chunk = chunks[passage.number]
            found, weight = self._read(reader, place, chunk, passage), chunk.num_learnt / num_learnt
            (found.loss * weight).backward()  # type: ignore[no-untyped-call]
            return found.nats.double() * weight

        if gradient == "truncated":
            for number in own:
                yield learn(passage(number))
            return
        for number in own[:-1]:
            first_passages[number] = passage(number)
            with torch.no_grad():
                self._read(reader, place, chunks[number], first_passages[number], needs_loss=False)
        for number in reversed(own):
            yield learn(passage(number, has_gradient=True, first=first_passages.pop(number, None)))

    def finish(self) -> None:
        """Wait until all that was sent has arrived. Raises DivergenceError where something was not finite."""
        for neighbour in (self.before, self.after):
            if neighbour is not None:
                neighbour.wait()
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _read(
        self,
        reader: Reader,
        place: tuple[int, ...],
        chunk: Batch,
        passage: Passage,
        *,
        needs_loss: bool = True,
    ) -> Reading:
        """Read a chunk, and remember what is not finite, unless it came so from the process before."""
        with passage.through(reader.model):
            found = reader.read(place, passage.number, chunk, needs_loss=needs_loss)
        if self._fault is None:
            state = passage.start(reader.model)
            tensors = () if state is None else state.tensors().values()
            if all(bool(tensor.isfinite().all()) for tensor in tensors):
                self._fault = reader.fault(found, chunk, state)
        return found


@dataclass(kw_only=True)
class Passage:
    """One reading of a chunk, while the state of each layer arrives from the chunk before, and leaves.

    Where the chunk was read before, that is `first`: then only gradients are passed.
    """

    number: int  # of the chunk
    before: Neighbour | None  # None where the text begins
    after: Neighbour | None  # None where the sample ends
    has_gradient: bool = False
    first: Passage | None = None
    starts: list[Layer] = field(default_factory=list)  # the states that arrived

    @contextmanager
    def through(self, model: AnyModel) -> Iterator[None]:
        """Have the layers of a model take and give states while it reads the chunk."""
        handles = []
        for block in model.layers:
            if self.before is not None:
                handles.append(block.register_forward_pre_hook(partial(self._arrive, self.before)))
            if self.after is not None:
                handles.append(block.register_forward_hook(partial(self._leave, self.after)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def start(self, model: AnyModel) -> State | None:
        """Return the state with which the chunk began, or None where the text begins with it."""
        if not self.starts:
            return None
        state: State = model.initial_state(self.starts[0][0].shape[0])
        return state.after(self.starts)

    def _arrive(self, before: Neighbour, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give a layer the state that the chunk before has left it with, instead of an empty one."""
        x, empty, *others = arguments
        start = self.first.starts[len(self.starts)] if self.first else before.receive(empty)
        self.starts.append(start)
        if self.has_gradient:
            start = tuple(tensor.detach().requires_grad_() for tensor in start)
            register_multi_grad_hook(start, partial(_return_gradients, before, start))
        return x, start, *others

    def _leave(
        self, after: Neighbour, _: nn.Module, arguments: tuple[Any, ...], result: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Hand the state after a layer on to the next chunk."""
        x, end, *others = result
        if not self.first:
            after.send(end)
        if self.has_gradient:
            x = _Left.apply(after, x, *end)  # type: ignore[no-untyped-call]
        return x, end, *others


def _return_gradients(before: Neighbour, start: Layer, gradients: Sequence[Tensor | None]) -> None:
    """Hand the gradient of the state that arrived back to where it came from."""
    pairs = zip(start, gradients, strict=True)
    before.send([torch.zeros_like(own) if gradient is None else gradient for own, gradient in pairs])


class _Left(torch.autograd.Function):
    """Leaves the residual stream as it is; on the way back, the gradient of the state that left comes in."""

    @staticmethod
    def forward(ctx: Any, after: Neighbour, x: Tensor, *end: Tensor) -> Tensor:
        ctx.after = after
        ctx.save_for_backward(*end)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, gradient, *ctx.after.receive(ctx.saved_tensors)


@contextmanager
def joined_relay(world: World, size: int) -> Iterator[Relay]:
    """Have processes that train together share their samples, `size` of them each; all must call this.

    Raises ConfigError where their number is no multiple of that.
    """
    if world.size % size:
        raise ConfigError(
            f"distributed.context is {size}, but the number of processes is {world.size}, which is no "
            "multiple of it. Start as many by `torchrun --nproc-per-node`, or set another context, which "
            "changes the losses by rounding alone."
        )
    if size == 1:
        yield Relay(world=world)
        return
    before = after = None
    for first in range(0, world.size, size):
        for place in range(size):
            one, other = first + place, first + (place + 1) % size
            with contact(world):
                group = dist.new_group([one, other], timeout=PATIENCE)  # which every process must make
            if world.rank == one:
                after = Neighbour(rank=other, group=group, world=world)
            elif world.rank == other:
                before = Neighbour(rank=one, group=group, world=world)
    try:
        yield Relay(world=world, size=size, before=before, after=after)
    finally:
        for neighbour in (before, after):
            if neighbour is not None:
                dist.destroy_process_group(neighbour.group)
