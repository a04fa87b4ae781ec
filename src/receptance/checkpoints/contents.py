"""What a checkpoint holds, under the official names, before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from receptance.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What one of the readers found; nothing in it is trusted yet."""

    path: Path
    format: str
    tensors: Mapping[str, Tensor]  # by official name, still in the shape and dtype of the file
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
        if name not in self.tensors:
            raise self.wrong(name, "is missing.")
        shape = tuple(self.tensors[name].shape)
        if len(shape) != ndim:
            raise self.wrong(name, f"is {shape}, but it must have {ndim} axes.")
        return shape

    def count(self, name: str) -> int:
        """Return how many numbers a tensor holds; raises CheckpointError where it is missing."""
        if name not in self.tensors:
            raise self.wrong(name, "is missing.")
        return self.tensors[name].numel()
