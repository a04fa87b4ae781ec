"""Rounding that makes up for its own errors on the inputs of a matrix (GPTQ, arxiv.org/abs/2210.17323).

    W matrix [row, column]   Q the rounded one
    x an input in the full model   z the same in the rounded model
    H = E[z z^T] second moments, R upper triangular with R R^T = H, U = R^-1

What the outputs are off by, E|W x - Q z|^2, is tr((T - Q) H (T - Q)^T) more than what cannot be helped, where
T = W E[x z^T] H^-1: aiming at T makes up for the layers before (GPTAQ, arxiv.org/abs/2504.02692). Columns are
rounded from the first to the last. Rounding column j by e U[j, j] moves those still to come by
-e U[j, j+1:], which leaves e^2 of the error for good; so differences d in a group of columns cost |d R|^2,
with the group's own block of R, and the scale is chosen by that. At last each number is rounded again, given
all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from receptance.errors import ConfigError
from receptance.quantization.column_group import round_group, settle_group
from receptance.quantization.packed import (
    GROUP_COLUMNS,
    INT4_DIVISORS,
    PackedMatrix,
)

IntegerFormat = Literal["int8", "int4"]
_RANGES: dict[IntegerFormat, tuple[int, int]] = {"int8": (-127, 127), "int4": (-8, 7)}

# Added to each diagonal element of H, as a share of their mean: what text has not shown is no reason for
# large moves. More where H is still not positive definite.
_DAMPING = 0.01
_SWEEPS = 2  # over all columns at the end; more improve little


@dataclass(frozen=True)
class Moments:
    """Second moments of what a matrix is given, averaged over tokens; any factor on both changes nothing."""

    inputs: Float[Tensor, "column column"]  # E[z z^T], in the model whose earlier layers are rounded
    cross: Float[Tensor, "column column"]  # E[x z^T], with the same inputs in the full model


def compensated(
    matrix: Float[Tensor, "row column"], matrix_format: IntegerFormat, moments: Moments
) -> PackedMatrix:
    """Round a matrix so that its outputs change least, for inputs with these moments.

    No row ends up worse, by these moments, than if each of its numbers were rounded to the nearest. Inputs
    that are always zero ask nothing of their columns, which are rounded to the nearest.

    Raises ConfigError for moments of other sizes than the matrix's, and where something is not finite.
    """
    rows, columns = matrix.shape
    if any(moment.shape != (columns, columns) for moment in (moments.inputs, moments.cross)):
        shapes = " and ".join(str(tuple(moment.shape)) for moment in (moments.inputs, moments.cross))
        raise ConfigError(f"a matrix of {columns} columns has moments [{columns}, {columns}], got {shapes}")
    if not all(torch.isfinite(part).all() for part in (matrix, moments.inputs, moments.cross)):
        raise ConfigError("weights or inputs that are not finite cannot be rounded to integers")
    short = -columns % GROUP_COLUMNS
    weights = F.pad(matrix.detach().double(), (0, short)).T.contiguous()  # from here on [column, row]
    inputs, cross = (
        F.pad(moment.double(), (0, short, 0, short)) for moment in (moments.inputs, moments.cross)
    )
    damped, root = _root(inputs)
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=True)
    target = (weights + inverse.T @ (inverse @ ((cross - inputs).T @ weights))).float()
    rounded = _rounded_in_order(target, root.float(), inverse.float(), matrix_format)
    _settle(*rounded, target, damped.float(), *_RANGES[matrix_format])
    nearest = _nearest(weights.float(), matrix_format)
    numbers, scales = _better_rows(rounded, nearest, target, inputs.float())
    integers = numbers.T.to(torch.int8).reshape(rows, -1, GROUP_COLUMNS)
    return PackedMatrix.of_integers(integers, scales.T, matrix_format, columns)


def _root(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return H with something added to its diagonal, and R."""
    mean = inputs.diagonal().mean()
    damping = torch.where(mean > 0, _DAMPING * mean, 1.0)
    while True:
        damped = inputs + damping * torch.eye(len(inputs), dtype=inputs.dtype)
        # Turned round, a lower triangular factor of the matrix turned round is an upper triangular one.
        factor, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            return damped, factor.flip(0, 1)
        damping *= 10


def _rounded_in_order(
    target: Tensor, root: Tensor, inverse: Tensor, matrix_format: IntegerFormat
) -> tuple[Tensor, Tensor]:
    """Return integers [column, row] and scales [group, row], both float32; the error of columns moves on."""
    left = target.clone()
    numbers, scales = torch.empty_like(left), left.new_empty(len(left) // GROUP_COLUMNS, left.shape[1])
    for group, begin in enumerate(range(0, len(left), GROUP_COLUMNS)):
        columns = slice(begin, begin + GROUP_COLUMNS)
        blocks = root[columns, columns], inverse[columns, columns]
        numbers[columns], scales[group], errors = _rounded_group(left[columns], *blocks, matrix_format)
        left[columns.stop :] -= inverse[columns, columns.stop :].T @ errors
    return numbers, scales


def _rounded_group(
    weights: Tensor, root: Tensor, inverse: Tensor, matrix_format: IntegerFormat
) -> tuple[Tensor, Tensor, Tensor]:
    """Return integers [32, row], scales [row] and errors [32, row] in units of U.

    The scales that are tried are those of rounding to the nearest.
    """
    low, high = _RANGES[matrix_format]
    largest = weights.gather(0, weights.abs().argmax(0, keepdim=True))  # [1, row]
    if matrix_format == "int8":
        return round_group(weights, largest.abs() / high, inverse, low, high)
    tried = torch.cat([largest / divisor for divisor in INT4_DIVISORS])
    best = round_group(weights, tried, inverse, low, high)
    seen, numbers = root.T @ weights, root.T @ best[0]
    fitted = (numbers * seen).sum(0) / numbers.square().sum(0).clamp(min=1e-30)  # the best for these integers
    return round_group(weights, torch.stack([best[1], fitted]), inverse, low, high)


def _settle(numbers: Tensor, scales: Tensor, target: Tensor, inputs: Tensor, low: int, high: int) -> None:
    """Round each number again, given all others, in place; the error of a row never grows."""
    off = target - numbers * scales.repeat_interleave(GROUP_COLUMNS, dim=0)
    for _ in range(_SWEEPS):
        for group, begin in enumerate(range(0, len(target), GROUP_COLUMNS)):
            columns = slice(begin, begin + GROUP_COLUMNS)
            slopes, block = inputs[columns] @ off, inputs[columns, columns]
            settle_group(numbers[columns], off[columns], scales[group], slopes, block, low, high)


def _nearest(weights: Tensor, matrix_format: IntegerFormat) -> tuple[Tensor, Tensor]:
    """Return integers [column, row] and scales [group, row]."""
    numbers, scales = PackedMatrix.pack(weights.T, matrix_format).integers()
    return numbers.flatten(1).T.float(), scales.T.float()


def _better_rows(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], target: Tensor, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Return integers and scales, of each row those by which the outputs are off less."""
    errors = []
    for numbers, scales in (first, second):
        off = target - numbers * scales.repeat_interleave(GROUP_COLUMNS, dim=0)
        errors.append(((inputs @ off) * off).sum(0))
    is_second = errors[1] < errors[0]
    numbers, scales = (torch.where(is_second, other, one) for one, other in zip(first, second, strict=True))
    return numbers, scales
