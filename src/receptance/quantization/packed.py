"""Matrices as the native runtime reads them: 16 rows interleaved, in one of four formats.

`native/packed.h` has the order. int8 and int4 are symmetric: 32 neighbouring columns of a row are integers
times one scale, stored as bfloat16. The native library packs; the torch code here does the same to the bit,
and serves where there is no library.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache, reduce
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError, KernelError
from receptance.quantization.arena import Arena

Format = Literal["float32", "bfloat16", "int8", "int4"]
FORMATS: tuple[Format, ...] = get_args(Format)  # in the order of the enum in native/packed.h
PANEL_ROWS = 16
GROUP_COLUMNS = 32

_PACKED_FROM = (torch.float32, torch.bfloat16)  # in the order of the enum Type
_SLICE = 1 << 20  # about so many weights are packed by torch at a time, which bounds the memory that it takes
_LEAST_SCALE = 1e-30  # groups of smaller weights are zero, because 1 / scale must be finite
# An int4 scale is the largest weight, with its sign, divided by one of these: -8 is an integer and 8 is not.
INT4_DIVISORS = (-8.0, -8.7, 7.4)


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [rows, columns] in the order of `native/packed.h`."""

    data: UInt8[Tensor, " bytes"]  # starts at a multiple of 64
    format: Format
    rows: int
    columns: int

    @classmethod
    def pack(
        cls, matrix: Float[Tensor, "row column"], matrix_format: Format, arena: Arena | None = None
    ) -> PackedMatrix:
        """Round the matrix to the nearest numbers of this format, in memory of the arena if there is one.

        The scale of an int8 group is its largest weight / 127, that of an int4 group the one of several with
        the least squared error. Raises ConfigError for an unknown format, for what is not a matrix of
        floating-point numbers, and, in int8 and int4, for weights that are not finite.
        """
        if matrix_format not in FORMATS:
            raise ConfigError(f"format {matrix_format!r} is unknown; known: {', '.join(FORMATS)}")
        if matrix.dim() != 2 or not matrix.is_floating_point() or not matrix.numel():
            raise ConfigError(
                f"a matrix of floating-point numbers is needed, got {tuple(matrix.shape)} in {matrix.dtype}"
            )
        rows, columns = matrix.shape
        num_bytes = packed_bytes(matrix_format, rows, columns)
        data = arena.take(num_bytes) if arena else torch.empty(num_bytes, dtype=torch.uint8)
        (_pack_by_torch if native.library() is None else _pack)(matrix.detach(), matrix_format, data)
        return cls(data, matrix_format, rows, columns)

    @classmethod
    def of_integers(
        cls,
        integers: Int8[Tensor, "row group 32"],
        scales: Float[Tensor, "row group"],
        matrix_format: Literal["int8", "int4"],
        columns: int,
    ) -> PackedMatrix:
        """Pack what something else has rounded: -127 to 127 or -8 to 7, missing columns being zero."""
        short = -len(integers) % PANEL_ROWS
        integers = torch.nn.functional.pad(integers, (0, 0, 0, 0, 0, short))
        scales = torch.nn.functional.pad(scales.bfloat16(), (0, 0, 0, short))
        data = pack_integers(integers, scales, matrix_format).flatten()
        return cls(data, matrix_format, len(integers) - short, columns)

    def dequantize(self) -> Float[Tensor, "row column"]:
        """Return the numbers that it holds, as float32."""
        if native.library() is None:
            return self._dequantize_by_torch()
        weights = torch.empty(self.rows, self.columns)
        _library().receptance_unpack(*self._pointers(), weights.data_ptr(), torch.get_num_threads())
        return weights

    def integers(self) -> tuple[Int8[Tensor, "row group 32"], Float[Tensor, "row group"]]:
        """Return what int8 and int4 hold, integers and their scales: the reverse of `of_integers`."""
        integers, scales = _ungrouped(self._panels(), self.format)
        return integers[: self.rows], scales[: self.rows]

    def _panels(self) -> Tensor:
        return self.data.view(-(-self.rows // PANEL_ROWS), -1)

    def _dequantize_by_torch(self) -> Tensor:
        panels = self._panels()
        if self.format in ("int8", "int4"):
            integers, scales = _ungrouped(panels, self.format)
            whole = (integers.float() * scales.float()[..., None]).flatten(1)
        elif self.format == "bfloat16":
            whole = (
                panels.view(torch.bfloat16).view(len(panels), -1, PANEL_ROWS, 2).transpose(1, 2).flatten(2)
            )
            whole = whole.flatten(0, 1).float()
        else:
            whole = panels.view(torch.float32).view(len(panels), -1, PANEL_ROWS).transpose(1, 2).flatten(0, 1)
        return whole[: self.rows, : self.columns].contiguous()

    def multiply(
        self, x: Float[Tensor, "token column"], threads: int | None = None
    ) -> Float[Tensor, "token row"]:
        """Return x times the transposed matrix in float32, as the native runtime computes it.

        Raises KernelError without the native library.
        """
        if x.shape[1:] != (self.columns,):
            raise ConfigError(f"the matrix takes [token, {self.columns}], got {tuple(x.shape)}")
        x = x.detach().float().contiguous()
        y = torch.empty(len(x), self.rows)
        _library().receptance_multiply(
            *self._pointers(), x.data_ptr(), len(x), y.data_ptr(), threads or torch.get_num_threads()
        )
        return y

    def _pointers(self) -> tuple[int, int, int, int]:
        return FORMATS.index(self.format), self.data.data_ptr(), self.rows, self.columns


def packed_bytes(matrix_format: Format, rows: int, columns: int) -> int:
    """Return how many bytes a packed matrix takes."""
    return -(-rows // PANEL_ROWS) * _panel_bytes(matrix_format, columns)


def rounded_to_int8(
    matrix: Float[Tensor, "row column"],
) -> tuple[Int8[Tensor, "row group 32"], Float[Tensor, "row group"]]:
    """Return integers from -127 to 127 and their bfloat16 scales; missing columns are zero."""
    groups = _grouped(matrix)
    return _rounded(groups, groups.abs().amax(-1) / 127, -127, 127)


def rounded_to_int4(
    matrix: Float[Tensor, "row column"],
) -> tuple[Int8[Tensor, "row group 32"], Float[Tensor, "row group"]]:
    """Return integers from -8 to 7 and their bfloat16 scales; missing columns are zero."""
    groups = _grouped(matrix)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)).squeeze(-1)
    best = _rounded(groups, largest / INT4_DIVISORS[0], -8, 7)
    for divisor in INT4_DIVISORS[1:]:
        best = _better(groups, best, _rounded(groups, largest / divisor, -8, 7))
    integers = best[0].float()
    # The best scale for these integers.
    fitted = _sum_in_order(integers * groups) / _sum_in_order(integers.square()).clamp(min=1)
    return _better(groups, best, _rounded(groups, fitted, -8, 7))


def _better(
    groups: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return for each group the integers and the scale with the smaller squared error."""
    errors = [
        _sum_in_order((integers * scales.float()[..., None] - groups).square_())
        for integers, scales in (first, second)
    ]
    is_second = errors[1] < errors[0]
    return torch.where(is_second[..., None], second[0], first[0]), torch.where(is_second, second[1], first[1])


def _sum_in_order(values: Tensor) -> Tensor:
    """Return the sums of the groups, rounded as those of the native library."""
    first, *others = values.unbind(-1)
    return reduce(torch.add, others, first)


def _rounded(groups: Tensor, scales: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Round to the nearest multiple of the scales, these being rounded first."""
    scales = storable(scales)
    inverse = torch.where(scales == 0, 0, 1 / scales.float())
    return (groups * inverse[..., None]).round_().clamp_(low, high).to(torch.int8), scales


def storable(scales: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return scales as they are stored."""
    return torch.where(scales.abs() < _LEAST_SCALE, 0, scales).bfloat16()


def _grouped(matrix: Tensor) -> Tensor:
    if not torch.isfinite(matrix).all():
        raise _not_finite()
    padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % GROUP_COLUMNS))
    return padded.view(len(matrix), -1, GROUP_COLUMNS)


def _panel_bytes(matrix_format: Format, columns: int) -> int:
    groups = -(-columns // GROUP_COLUMNS)
    return (
        PANEL_ROWS
        * {
            "float32": 4 * columns,
            "bfloat16": 2 * (columns + columns % 2),
            "int8": groups * (2 + GROUP_COLUMNS),
            "int4": groups * (2 + GROUP_COLUMNS // 2),
        }[matrix_format]
    )


def _not_finite() -> ConfigError:
    return ConfigError("weights that are not finite cannot be rounded to integers; keep them in bfloat16")


def _pack(matrix: Tensor, matrix_format: Format, data: Tensor) -> None:
    """Fill the data of a packed matrix."""
    source = matrix.to("cpu", matrix.dtype if matrix.dtype in _PACKED_FROM else torch.float32)
    finite = _library().receptance_pack(
        *(_PACKED_FROM.index(source.dtype), source.data_ptr(), *source.shape, *source.stride()),
        *(FORMATS.index(matrix_format), data.data_ptr(), torch.get_num_threads()),
    )
    if not finite:
        raise _not_finite()


def _pack_by_torch(matrix: Tensor, matrix_format: Format, data: Tensor) -> None:
    """The same without the native library."""
    rows, columns = matrix.shape
    step = max(1, _SLICE // (PANEL_ROWS * columns)) * PANEL_ROWS
    end = 0
    for first in range(0, rows, step):
        panels = _panels(matrix[first : first + step].float(), matrix_format).flatten()
        begin, end = end, end + len(panels)
        data[begin:end] = panels


def _panels(matrix: Tensor, matrix_format: Format) -> Tensor:
    """Return whole panels as uint8."""
    rows, columns = matrix.shape
    short = -rows % PANEL_ROWS
    if matrix_format in ("int8", "int4"):
        integers, scales = (rounded_to_int8 if matrix_format == "int8" else rounded_to_int4)(matrix)
        integers = torch.nn.functional.pad(integers, (0, 0, 0, 0, 0, short))
        scales = torch.nn.functional.pad(scales, (0, 0, 0, short))
        return pack_integers(integers, scales, matrix_format)
    if matrix_format == "bfloat16":
        padded = torch.nn.functional.pad(matrix.bfloat16(), (0, columns % 2, 0, short))
        pairs = padded.view(-1, PANEL_ROWS, padded.shape[1] // 2, 2)
        return pairs.transpose(1, 2).contiguous().view(torch.uint8)
    padded = torch.nn.functional.pad(matrix, (0, 0, 0, short)).view(-1, PANEL_ROWS, columns)
    return padded.transpose(1, 2).contiguous().view(torch.uint8)


def pack_integers(
    integers: Int8[Tensor, "row group 32"], scales: Float[Tensor, "row group"], matrix_format: Format
) -> UInt8[Tensor, "panel group bytes"]:
    """Return the panels of integers that something else has rounded; the rows fill whole panels."""
    rows, groups, _ = integers.shape
    numbers = integers
    if matrix_format == "int4":
        low, high = (integers + 8).view(torch.uint8).view(rows, groups, 2, GROUP_COLUMNS // 2).unbind(2)
        numbers = (low | high << 4).view(torch.int8)
    fours = numbers.view(rows // PANEL_ROWS, PANEL_ROWS, groups, -1, 4).permute(0, 2, 3, 1, 4)
    bytes_of_numbers = fours.reshape(rows // PANEL_ROWS, groups, -1).view(torch.uint8)
    by_group = scales.view(-1, PANEL_ROWS, groups).transpose(1, 2).contiguous()
    return torch.cat([by_group.view(torch.uint8), bytes_of_numbers], dim=-1)


def _ungrouped(panels: Tensor, matrix_format: Format) -> tuple[Tensor, Tensor]:
    """Return integers [row, group, 32] and scales [row, group] of whole panels."""
    groups = panels.view(len(panels), -1, _panel_bytes(matrix_format, GROUP_COLUMNS))
    scales = groups[..., : 2 * PANEL_ROWS].contiguous().view(torch.bfloat16).transpose(1, 2).flatten(0, 1)
    fours = groups[..., 2 * PANEL_ROWS :].view(*groups.shape[:2], -1, PANEL_ROWS, 4)
    numbers = fours.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)
    if matrix_format == "int4":
        numbers = torch.cat([numbers & 15, numbers >> 4], dim=-1) - 8
    return numbers.view(torch.int8), scales


@cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    integer, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    pack, unpack, multiply = library.receptance_pack, library.receptance_unpack, library.receptance_multiply
    pack.argtypes = [integer, pointer, size, size, size, size, integer, pointer, integer]
    unpack.argtypes = [integer, pointer, size, size, pointer, integer]
    multiply.argtypes = [integer, pointer, size, size, pointer, size, pointer, integer]
    pack.restype, unpack.restype, multiply.restype = integer, None, None
    return library
