from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance.errors import ConfigError
from receptance.quantization.compensated import IntegerFormat, Moments, compensated
from receptance.quantization.packed import PackedMatrix

both_formats = pytest.mark.parametrize("matrix_format", ["int8", "int4"])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(tokens: int, columns: int, seed: int = 0) -> Tensor:
    """Return inputs of a few large directions, as those of real layers are."""
    sizes = torch.rand(columns, generator=seeded(seed)) ** 3
    directions = torch.randn(columns, columns, generator=seeded(seed)) / columns**0.5
    return torch.randn(tokens, columns, generator=seeded(seed + 1)) * sizes @ directions


def moments_of(x: Tensor, z: Tensor | None = None) -> Moments:
    z = x if z is None else z
    return Moments(z.T @ z / len(z), x.T @ z / len(z))


def error(matrix: Tensor, rounded: Tensor, x: Tensor) -> Tensor:
    """Return the squared error of each row's outputs, from their definition."""
    return (x.double() @ (matrix - rounded).double().T).square().sum(0)


@both_formats
@given(rows=st.integers(1, 40), columns=st.integers(1, 100), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_inputs_without_correlation_ask_for_the_nearest(
    matrix_format: IntegerFormat, rows: int, columns: int, seed: int
) -> None:
    matrix = torch.randn(rows, columns, generator=seeded(seed))
    found = compensated(matrix, matrix_format, Moments(torch.eye(columns), torch.eye(columns)))
    assert torch.equal(found.dequantize(), PackedMatrix.pack(matrix, matrix_format).dequantize())


@both_formats
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 100), tokens=st.integers(1, 300), seed=st.integers(0, 9)
)
@settings(max_examples=25, deadline=None)
def test_no_row_is_worse_than_the_nearest(
    matrix_format: IntegerFormat, rows: int, columns: int, tokens: int, seed: int
) -> None:
    matrix, x = torch.randn(rows, columns, generator=seeded(seed)), correlated(tokens, columns, seed)
    found = compensated(matrix, matrix_format, moments_of(x))
    assert (found.rows, found.columns, found.format) == (rows, columns, matrix_format)
    nearest = PackedMatrix.pack(matrix, matrix_format)
    allowed = error(matrix, nearest.dequantize(), x) * (1 + 1e-3) + 1e-6
    assert (error(matrix, found.dequantize(), x) <= allowed).all()


@both_formats
def test_correlated_inputs_are_served_far_better(matrix_format: IntegerFormat) -> None:
    matrix, x = torch.randn(48, 96, generator=seeded(0)), correlated(500, 96)
    nearest = error(matrix, PackedMatrix.pack(matrix, matrix_format).dequantize(), x).sum()
    assert (
        error(matrix, compensated(matrix, matrix_format, moments_of(x)).dequantize(), x).sum() < nearest / 3
    )


def test_few_columns_are_rounded_nearly_as_well_as_any_integers_could_be() -> None:
    matrix = torch.randn(40, 3, generator=seeded(1))
    x = torch.randn(200, 3, generator=seeded(5)) + torch.randn(200, 1, generator=seeded(6))
    found = compensated(matrix, "int4", moments_of(x))
    scales = found.data.view(-1, 32 + 256)[:, :32].view(torch.bfloat16).flatten()[:40].float()
    integers = torch.tensor(list(itertools.product(range(-8, 8), repeat=3))).float()
    best = torch.stack(
        [
            (x.double() @ (weights - integers * scale).double().T).square().sum(0).min()
            for weights, scale in zip(matrix, scales, strict=True)
        ]
    )
    ours, nearest = (
        error(matrix, each.dequantize(), x).sum() for each in (found, PackedMatrix.pack(matrix, "int4"))
    )
    assert best.sum() <= ours <= 1.2 * best.sum()
    assert ours < 0.9 * nearest


def test_errors_of_the_layers_before_are_made_up_for() -> None:
    matrix, x = torch.randn(30, 64, generator=seeded(0)), correlated(2000, 64)
    z = (
        x
        + x @ torch.randn(64, 64, generator=seeded(3)) * 0.02
        + torch.randn(2000, 64, generator=seeded(4)) * 0.02
    )

    def off(moments: Moments) -> float:
        rounded = compensated(matrix, "int8", moments).dequantize()
        return float((x @ matrix.T - z @ rounded.T).square().sum())

    assert off(moments_of(x, z)) < off(moments_of(z)) / 3


def test_inputs_that_are_always_zero_ask_for_the_nearest() -> None:
    matrix, x = torch.randn(8, 96, generator=seeded(0)), correlated(300, 96)
    x[:, 32:64] = 0
    found = compensated(matrix, "int4", moments_of(x)).dequantize()
    nearest = PackedMatrix.pack(matrix, "int4").dequantize()
    assert torch.equal(found[:, 32:64], nearest[:, 32:64])
    assert torch.equal(compensated(matrix, "int4", moments_of(x * 0)).dequantize(), nearest)


@both_formats
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_fewer_tokens_than_columns_are_enough_whatever_their_size(
    matrix_format: IntegerFormat, size: float
) -> None:
    matrix, x = torch.randn(8, 64, generator=seeded(0)), correlated(3, 64) * size
    found = compensated(matrix, matrix_format, moments_of(x)).dequantize()
    assert ((found - matrix).abs() < 10 * matrix.abs().max()).all()


def test_what_cannot_be_rounded_is_refused_with_the_reason() -> None:
    matrix, moments = torch.ones(2, 4), Moments(torch.eye(4), torch.eye(4))
    with pytest.raises(ConfigError, match=r"4 columns has moments \[4, 4\], got \(3, 3\) and \(4, 4\)"):
        compensated(matrix, "int4", Moments(torch.eye(3), torch.eye(4)))
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ConfigError, match="not finite cannot be rounded to integers"):
            compensated(matrix * wrong, "int8", moments)
        with pytest.raises(ConfigError, match="not finite cannot be rounded to integers"):
            compensated(matrix, "int8", Moments(torch.eye(4), torch.eye(4) * wrong))
