"""Several processes that train one model together, as `torchrun` starts them.

Each reads its share of a step's samples, the gradients are added up, and every process takes the same step
with the same numbers. So each holds the whole model and its optimizer, and what is decided in one is decided
in all: a bad step, a request to stop, the clock. The first process alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from receptance import errors
from receptance.errors import ConfigError, ReceptanceError, TrainingError

Outcome = TypeVar("Outcome")

# How long a process waits for the others, which may be compiling, or the first one, which may be saving.
PATIENCE = timedelta(minutes=10)
# Numbers that are added up in one message. Each of many small tensors would wait for the network, and one
# copy of all gradients would double their memory.
BUCKET = 1 << 24


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that train together; by itself, a process that is alone.

    Its methods, but for `device`, wait for every process, so all must call the same in the same order. They
    raise TrainingError where another process has ended.
    """

    rank: int = 0  # of this process, from 0
    size: int = 1  # processes
    local_rank: int = 0  # among those of this machine
    local_size: int = 1  # processes of this machine, as far as is known
    is_restarted: bool = False  # by `torchrun --max-restarts`, after one of them ended

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Return the device of this process for the one that a recipe names: for "cuda", a GPU of its own.

        Raises ConfigError where there is none for it, or the recipe names one for all, or what is none.
        """
        if self.size == 1 or not name.startswith("cuda"):
            try:
                return torch.device(name)
            except RuntimeError as error:
                raise ConfigError(f"run.device is {name!r}, which is no device: {error}") from error
        if name != "cuda":
            raise ConfigError(
                f"run.device is {name!r}, but {self.size} processes train together, each on a GPU of its "
                "own. Set it to 'cuda'."
            )
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise ConfigError(
                f"process {self.local_rank} of this machine has no GPU, because there are {count}. Start "
                "fewer processes by `torchrun --nproc-per-node`."
            )
        torch.cuda.set_device(self.local_rank)  # which NCCL goes by
        return torch.device(name, self.local_rank)

    def sum(self, *numbers: float) -> list[float]:
        """Return the sums of these numbers over all processes, in float64."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        with contact(self):
            dist.all_reduce(sums)
        return [float(number) for number in sums]

    def largest(self, *numbers: float) -> list[float]:
        """Return the largest that any process gave in each place."""
        if self.size == 1:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.float64)
        with contact(self):
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return [float(number) for number in found]

    def any(self, claim: bool) -> bool:
        """Say whether this is true in any process."""
        return self.sum(claim)[0] > 0

    def first(self, number: float) -> float:
        """Return what the first process gave."""
        return self.sum(number if self.is_first else 0.0)[0]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor, in place, its sum over all processes; to the bit the same in all of them."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with contact(self):
                dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise in every process what the block raised on purpose in any, the first of them, or an OSError.

        The block must not wait for other processes.
        """
        caught: ReceptanceError | OSError | None = None
        try:
            yield
        except (ReceptanceError, OSError) as error:
            if self.size == 1:
                raise
            caught = error
        failed = self._lowest_rank(caught is not None)
        if failed is None:
            return
        name, _, text = self._text_of(failed, f"{type(caught).__name__}\n{caught}").partition("\n")
        raise getattr(errors, name, OSError)(text) from caught

    def in_turn(self, action: Callable[[], Outcome]) -> Outcome:
        """Have the first process do something, and when it has, the others; return what each one's gave.

        The action must not wait for other processes. Raises its errors as `together` does.
        """
        results: list[Outcome] = []
        for is_its_turn in (self.is_first, not self.is_first):
            with self.together():
                if is_its_turn:
                    results.append(action())
        return results[0]

    def texts(self, text: str) -> list[str]:
        """Return what each process gave, from the first to the last."""
        return [text] if self.size == 1 else [self._text_of(rank, text) for rank in range(self.size)]

    def _lowest_rank(self, claim: bool) -> int | None:
        """Return the first process in which this is true, or None."""
        claims = [0.0] * self.size
        claims[self.rank] = float(claim)
        return next((rank for rank, said in enumerate(self.sum(*claims)) if said), None)

    def _text_of(self, rank: int, text: str) -> str:
        """Return what the process of this rank gave."""
        content = text.encode()
        (length,) = self.sum(len(content) if self.rank == rank else 0)
        message = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == rank:
            message.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        with contact(self):
            dist.broadcast(message, rank)
        return bytes(message.tolist()).decode()


ALONE = World()


@contextmanager
def joined_world() -> Iterator[World]:
    """Meet the other processes that `torchrun` started, if it did, and part from them at the end.

    Processes talk by gloo, and by NCCL of what is on a GPU. Raises TrainingError where they do not meet.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield ALONE
        return
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    world = World(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        is_restarted=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0,
    )
    if size == 1:
        yield world
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with contact(world):
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors that follow one another, as many as fit into a bucket, or one that does not."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(one.numel() for one in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def contact(world: World) -> Iterator[None]:
    """Turn a loss of contact into an error that says what to look at."""
    try:
        yield
    except RuntimeError as error:  # dist.DistError among them
        raise TrainingError(
            f"process {world.rank} of {world.size}: another one has ended or does not answer, so this one "
            f"cannot go on. What that wrote says why; the last snapshot is as it was. {error}"
        ) from error
