"""What a checkpoint holds, under the official names, before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from receptance.checkpoints.names import without_padding
from receptance.errors import CheckpointError
from receptance.quantization.packed import Format, PackedMatrix

LONGEST_NAME = 200  # of a tensor in a message
FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Packed:
    """The numbers of a weight as the native runtime reads them; see `packed_weights`."""

    format: Format
    read: Callable[[], tuple[PackedMatrix, ...]]


@dataclass(frozen=True)
class Weight:
    """A tensor that is known before it is read: its shape and dtype now, its numbers when asked for.

    Files may be larger than the memory, so nobody reads two weights where one will do. What is packed holds
    the same numbers in another form, which is lost when they change.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    packed: Packed | None = None

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

    def finite(self, place: str) -> Weight:
        """Return the weight with a check, whenever it is read, that all of its values are finite."""

        def read() -> Tensor:
            tensor = self.read()
            if not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):  # NaN spreads to both
                first = (~torch.isfinite(tensor)).nonzero()[0].tolist()
                value = float(tensor[tuple(first)])
                raise CheckpointError(f"{place} holds {value} at {first}, but every weight must be finite.")
            return tensor

        return replace(self, read=read)


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
        return CheckpointError(f"{self.path}: {self.shown(name)} {what}")

    def shown(self, name: str) -> str:
        """Return the name that a tensor has in the file, in quotes and not too long for a message."""
        in_file = self.name_in_file(name)
        return repr(in_file if len(in_file) <= LONGEST_NAME else f"{in_file[:LONGEST_NAME]}…")

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

    def take(
        self,
        expected: Mapping[str, tuple[int, ...]],
        owner: str,
        config: object,
        *,
        unused: Collection[str] = (),
    ) -> dict[str, Weight]:
        """Return the weights of these names and shapes, in the order given, to be checked when they are read.

        Raises CheckpointError, naming the weight, where one is missing, has another shape than the config
        needs or no number format of weights, or is neither of the owner nor among the unused.
        """
        missing = [name for name in expected if name not in self.weights]
        unknown = [name for name in self.weights if name not in expected and name not in unused]
        if missing or unknown:
            problems = [
                f"{self.shown(names[0])} is {verdict}"
                + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
                for names, verdict in ((missing, "missing"), (unknown, f"no tensor of {owner}"))
                if names
            ]
            raise CheckpointError(f"{self.path}: {', and '.join(problems)}.")
        return {name: self.shaped(name, shape, config) for name, shape in expected.items()}

    def shaped(self, name: str, shape: tuple[int, ...], config: object) -> Weight:
        """Return one weight as `take` does; it may have further axes of size one in front."""
        weight = self.weights[name]
        if without_padding(weight.shape, shape) != shape:
            raise self.wrong(name, f"is {weight.shape}, but {config} needs {shape}.")
        checked = self.checked(name)
        return checked if weight.shape == shape else checked.map(lambda tensor: tensor.reshape(shape))

    def checked(self, name: str) -> Weight:
        """Return one weight of any shape, if its numbers are of a format of weights and finite when read."""
        weight = self.weights[name]
        if weight.dtype not in FLOAT_DTYPES:
            floats = ", ".join(map(str, FLOAT_DTYPES))
            raise self.wrong(name, f"is of {weight.dtype}, but weights need one of {floats}.")
        return weight.finite(f"{self.path}: {self.shown(name)}")

    def _weight(self, name: str) -> Weight:
        if name not in self.weights:
            raise self.wrong(name, "is missing.")
        return self.weights[name]
