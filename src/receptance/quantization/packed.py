"""Matrices as the native runtime reads them: 16 rows interleaved, in one of four formats (`native/packed.h`).

int8 and int4 are symmetric: 32 neighbouring columns of a row are integers times one scale, stored as bfloat16.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError, KernelError

Format = Literal["float32", "bfloat16", "int8", "int4"]
FORMATS: tuple[Format, ...] = get_args(Format)  # in the order of the enum in native/packed.h
PANEL_ROWS = 16
GROUP_COLUMNS = 32

_SLICE = 1 << 20  # about so many weights are packed at a time, which bounds the memory that it takes
# An int4 scale is the largest weight divided by one of these, its sign included: -8 is an integer and 8 is not.
_INT4_DIVISORS = (-8.7, -8.0, -7.4, 6.8, 7.4, 8.0)


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [rows, columns] in the order of `native/packed.h`."""

    data: UInt8[Tensor, " bytes"]  # starts at a multiple of 64
    format: Format
    rows: int
    columns: int

    @classmethod
    def pack(cls, matrix: Float[Tensor, "row column"], format: Format) -> PackedMatrix:  # noqa: A002  # the word
        """Round the matrix to this format, to the nearest.

        The scale of an int8 group is its largest weight / 127, that of an int4 group the best of six by squared error.
        Raises ConfigError for an unknown format, for what is not a matrix of floating-point numbers, and, in int8 and
        int4, for weights that are not finite.
        """
        if format not in FORMATS:
            raise ConfigError(f"format {format!r} is unknown; known: {', '.join(FORMATS)}")
        if matrix.dim() != 2 or not matrix.is_floating_point() or not matrix.numel():
            raise ConfigError(
                f"only a matrix of floating-point numbers is packed, got {tuple(matrix.shape)} in {matrix.dtype}"
            )
        rows, columns = matrix.shape
        panel = _panel_bytes(format, columns)
        data = torch.empty(-(-rows // PANEL_ROWS), panel, dtype=torch.uint8)
        panels = max(1, _SLICE // (PANEL_ROWS * columns))
        for first in range(0, len(data), panels):
            part = matrix[first * PANEL_ROWS : (first + panels) * PANEL_ROWS].detach().float()
            data[first : first + panels] = _pack(part, format).view(-1, panel)
        return cls(data.view(-1), format, rows, columns)

    def dequantize(self) -> Float[Tensor, "row column"]:
        """Return the numbers that it holds, as float32."""
        panels = self.data.view(-(-self.rows // PANEL_ROWS), -1)
        if self.format in ("int8", "int4"):
            integers, scales = _ungrouped(panels, self.format)
            whole = (integers.float() * scales.float()[..., None]).flatten(1)
        elif self.format == "bfloat16":
            whole = panels.view(torch.bfloat16).view(len(panels), -1, PANEL_ROWS, 2).transpose(1, 2).flatten(2)
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
        multiply = _library().receptance_multiply
        multiply(
            FORMATS.index(self.format),
            *(self.data.data_ptr(), self.rows, self.columns, x.data_ptr(), len(x), y.data_ptr()),
            threads or torch.get_num_threads(),
        )
        return y


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
    integers, scales, error = None, None, None
    for divisor in _INT4_DIVISORS:
        tried, tried_scales = _rounded(groups, largest / divisor, -8, 7)
        tried_error = (tried * tried_scales.float()[..., None] - groups).square_().sum(-1)
        if integers is None or scales is None or error is None:
            integers, scales, error = tried, tried_scales, tried_error
            continue
        better = tried_error < error
        integers = torch.where(better[..., None], tried, integers)
        scales = torch.where(better, tried_scales, scales)
        error = torch.where(better, tried_error, error)
    assert integers is not None and scales is not None  # noqa: S101, PT018  # there are divisors
    return integers, scales


def _rounded(groups: Tensor, scales: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Round to the nearest multiple of the scales, these being rounded first."""
    scales = scales.bfloat16()
    inverse = torch.where(scales == 0, 0.0, 1 / scales.float())
    return (groups * inverse[..., None]).round_().clamp_(low, high).to(torch.int8), scales


def _grouped(matrix: Tensor) -> Tensor:
    if not torch.isfinite(matrix).all():
        raise ConfigError("weights that are not finite cannot be rounded to integers; keep them in bfloat16")
    padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % GROUP_COLUMNS))
    return padded.view(len(matrix), -1, GROUP_COLUMNS)


def _panel_bytes(format: Format, columns: int) -> int:  # noqa: A002  # the word
    groups = -(-columns // GROUP_COLUMNS)
    return PANEL_ROWS * {
        "float32": 4 * columns,
        "bfloat16": 2 * (columns + columns % 2),
        "int8": groups * (2 + GROUP_COLUMNS),
        "int4": groups * (2 + GROUP_COLUMNS // 2),
    }[format]


def _pack(matrix: Tensor, format: Format) -> Tensor:  # noqa: A002  # the word
    """Return whole panels as uint8."""
    rows, columns = matrix.shape
    short = -rows % PANEL_ROWS
    if format in ("int8", "int4"):
        integers, scales = (rounded_to_int8 if format == "int8" else rounded_to_int4)(matrix)
        integers = torch.nn.functional.pad(integers, (0, 0, 0, 0, 0, short))
        scales = torch.nn.functional.pad(scales, (0, 0, 0, short))
        return pack_integers(integers, scales, format)
    if format == "bfloat16":
        padded = torch.nn.functional.pad(matrix.bfloat16(), (0, columns % 2, 0, short))
        pairs = padded.view(-1, PANEL_ROWS, padded.shape[1] // 2, 2)
        return pairs.transpose(1, 2).contiguous().view(torch.uint8)
    padded = torch.nn.functional.pad(matrix, (0, 0, 0, short)).view(-1, PANEL_ROWS, columns)
    return padded.transpose(1, 2).contiguous().view(torch.uint8)


def pack_integers(
    integers: Int8[Tensor, "row group 32"], scales: Float[Tensor, "row group"], format: Format  # noqa: A002
) -> UInt8[Tensor, "panel group bytes"]:
    """Return the panels of integers that something else has rounded; the rows fill whole panels."""
    rows, groups, _ = integers.shape
    numbers = integers
    if format == "int4":
        low, high = (integers + 8).view(torch.uint8).view(rows, groups, 2, GROUP_COLUMNS // 2).unbind(2)
        numbers = (low | high << 4).view(torch.int8)
    fours = numbers.view(rows // PANEL_ROWS, PANEL_ROWS, groups, -1, 4).permute(0, 2, 3, 1, 4)
    bytes_of_numbers = fours.reshape(rows // PANEL_ROWS, groups, -1).view(torch.uint8)
    by_group = scales.view(-1, PANEL_ROWS, groups).transpose(1, 2).contiguous()
    return torch.cat([by_group.view(torch.uint8), bytes_of_numbers], dim=-1)


def _ungrouped(panels: Tensor, format: Format) -> tuple[Tensor, Tensor]:  # noqa: A002  # the word
    """Return integers [row, group, 32] and scales [row, group] of whole panels."""
    groups = panels.view(len(panels), -1, _panel_bytes(format, GROUP_COLUMNS))
    scales = groups[..., : 2 * PANEL_ROWS].contiguous().view(torch.bfloat16).transpose(1, 2).flatten(0, 1)
    fours = groups[..., 2 * PANEL_ROWS :].view(*groups.shape[:2], -1, PANEL_ROWS, 4)
    numbers = fours.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)
    if format == "int4":
        numbers = torch.cat([numbers & 15, numbers >> 4], dim=-1) - 8
    return numbers.view(torch.int8), scales


@cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    multiply = library.receptance_multiply
    multiply.argtypes = [ctypes.c_int, pointer, size, size, pointer, size, pointer, ctypes.c_int]
    multiply.restype = None
    return library
