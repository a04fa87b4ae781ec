"""What a checkpoint holds, under the official names, before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from receptance.errors import CheckpointError


@dataclass(frozen=True)
class Weight:
    """A tensor that is known before it is read: its shape and dtype now, its numbers when asked for.

    Files may be larger than the memory, so nobody reads two weights where one will do.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """Return a tensor that is in memory, or mapped from a file, as a weight."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes once it is read."""
        return self.like().nbytes

    def like(self) -> Tensor:
        """Return a tensor of this shape and dtype that has no numbers."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def numbers(self) -> memoryview:
        """Read the weight and return its numbers as the bytes to write, row by row."""
        return self.read().detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    def map(self, change: Callable[[Tensor], Tensor]) -> Weight:
        """Return what a function makes of the weight, which is read when the result is."""
        after = change(self.like())
        return Weight(tuple(after.shape), after.dtype, lambda: change(self.read()))


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Weight]:
    """Return tensors by name as weights."""
    return {name: Weight.of(tensor) for name, tensor in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What one of the readers found; nothing in it is trusted yet."""

    path: Path
    format: str
    weights: Mapping[str, Weight]  # by official name, still in the shape and dtype of the file
    files: tuple[Path, ...]  # where the weights lie
    config: Mapping[str, object] = field(default_factory=dict)  # what the file says about the model
    tokenizer: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    name_in_file: Callable[[str], str] = str  # official name -> the one to show to whoever looks at the file

    def wrong(self, name: str, what: str) -> CheckpointError:
        """Return the error that a tensor is wrong, under the name that it has in the file."""
        return CheckpointError(f"{self.path}: {self.name_in_file(name)!r} {what}")

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """Return the shape of a tensor that the sizes are read from.

        Raises CheckpointError where it is missing, or has another number of axes.
        """
        shape = self._weight(name).shape
        if len(shape) != ndim:
            raise self.wrong(name, f"is {shape}, but it must have {ndim} axes.")
        return shape

    def count(self, name: str) -> int:
        """Return how many numbers a tensor holds; raises CheckpointError where it is missing."""
        return self._weight(name).like().numel()

    def _weight(self, name: str) -> Weight:
        if name not in self.weights:
            raise self.wrong(name, "is missing.")
        return self.weights[name]
