"""The inner steps of `compensated`: 32 columns of all rows, one column after the other.

The native library takes them (`native/compensate.cpp`); the torch code here does the same to the bit, and
serves where there is no library.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from receptance import native
from receptance.quantization.packed import GROUP_COLUMNS, storable

Group = Float[Tensor, "32 row"]
Block = Float[Tensor, "32 32"]


def round_group(
    weights: Group, scales: Float[Tensor, "choice row"], inverse: Block, low: int, high: int
) -> tuple[Group, Float[Tensor, " row"], Group]:
    """Return integers, the scale of each row, and what each column is off by in units of U; all float32.

    scales   the choices, of which a row takes the one with the least sum of squared errors
    inverse  the group's own block of U: rounding column j by e U[j, j] moves those after it by -e U[j, j+1:]
    """
    scales = storable(scales).float()
    library = _library()
    if library is None:
        return _round_by_torch(weights, scales, inverse, low, high)
    weights, scales, inverse = weights.contiguous(), scales.contiguous(), inverse.contiguous()
    choices, rows = scales.shape
    numbers, errors, scale = torch.empty_like(weights), torch.empty_like(weights), torch.empty_like(scales[0])
    library.receptance_round_group(
        *(weights.data_ptr(), scales.data_ptr(), choices, inverse.data_ptr(), rows, low, high),
        *(numbers.data_ptr(), errors.data_ptr(), scale.data_ptr(), torch.get_num_threads()),
    )
    return numbers, scale, errors


def settle_group(
    numbers: Group,
    off: Group,
    scale: Float[Tensor, " row"],
    slopes: Group,
    inputs: Block,
    low: int,
    high: int,
) -> None:
    """Round each number again, given all others, and keep what it is off by; both in place and contiguous.

    slopes  H times what all columns are off by, for the columns of the group
    inputs  the group's own block of H
    """
    library = _library()
    if library is None:
        return _settle_by_torch(numbers, off, scale, slopes, inputs, low, high)
    scale, slopes, inputs = scale.contiguous(), slopes.contiguous(), inputs.contiguous()
    library.receptance_settle_group(
        *(scale.data_ptr(), inputs.data_ptr(), slopes.data_ptr(), numbers.shape[1], low, high),
        *(numbers.data_ptr(), off.data_ptr(), torch.get_num_threads()),
    )
    return None


def _round_by_torch(
    weights: Tensor, scales: Tensor, inverse: Tensor, low: int, high: int
) -> tuple[Tensor, Tensor, Tensor]:
    steps = torch.where(scales == 0, 0, 1 / scales)
    left = weights[:, None].expand(-1, *scales.shape).clone()  # [32, choice, row]
    numbers, errors = torch.empty_like(left), torch.empty_like(left)
    squares = torch.zeros_like(scales)
    for j in range(GROUP_COLUMNS):
        numbers[j] = (left[j] * steps).round_().clamp_(low, high)
        errors[j] = (left[j] - numbers[j] * scales) / inverse[j, j]
        squares += errors[j].square()
        left[j + 1 :] -= inverse[j, j + 1 :, None, None] * errors[j]
    choice = squares.argmin(0)[None]
    numbers, errors = (part.gather(1, choice.expand(len(part), 1, -1))[:, 0] for part in (numbers, errors))
    return numbers, scales.gather(0, choice)[0], errors


def _settle_by_torch(
    numbers: Tensor, off: Tensor, scale: Tensor, slopes: Tensor, inputs: Tensor, low: int, high: int
) -> None:
    step = torch.where(scale == 0, 0, 1 / scale)
    slopes = slopes.clone()
    for j in range(GROUP_COLUMNS):
        settled = (numbers[j] + slopes[j] / inputs[j, j] * step).clamp_(low, high).round_()
        moved = (settled - numbers[j]) * scale
        numbers[j] = settled
        off[j] -= moved
        slopes[j + 1 :] -= inputs[j, j + 1 :, None] * moved


@cache
def _library() -> ctypes.CDLL | None:
    library = native.library()
    if library is None:
        return None
    integer, size, pointer, real = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    round_all, settle = library.receptance_round_group, library.receptance_settle_group
    round_all.argtypes = [
        pointer,
        pointer,
        size,
        pointer,
        size,
        real,
        real,
        pointer,
        pointer,
        pointer,
        integer,
    ]
    settle.argtypes = [pointer, pointer, pointer, size, real, real, pointer, pointer, integer]
    round_all.restype = settle.restype = None
    return library
