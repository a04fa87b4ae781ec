from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance import native
from receptance.quantization import column_group
from receptance.quantization.column_group import round_group, settle_group
from receptance.quantization.packed import storable

RANGES = [(-8, 7), (-127, 127)]


def a_group(rows: int, choices: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights [32, row], scales [choice, row], some of them zero, and a positive definite H."""
    numbers = torch.Generator().manual_seed(seed)
    weights = torch.randn(32, rows, generator=numbers)
    scales = torch.rand(choices, rows, generator=numbers) / 5
    scales[:, torch.rand(rows, generator=numbers) < 0.1] = 0
    inputs = torch.randn(40, 32, generator=numbers)
    return weights, scales, inputs.T @ inputs + torch.eye(32)


def factor(inputs: Tensor) -> Tensor:
    """Return U, the inverse of the upper triangular R with R R^T = H."""
    return torch.linalg.cholesky(inputs.flip(0, 1).double()).flip(0, 1).inverse().float()


@pytest.fixture(params=[None, *native.levels()], ids=str)
def torch_or_level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param is None:
        monkeypatch.setattr(column_group, "_library", lambda: None)
        yield
    else:
        with native.use_level(request.param):
            yield


@pytest.mark.usefixtures("torch_or_level")
@pytest.mark.parametrize("bounds", RANGES, ids=["int4", "int8"])
def test_errors_are_what_later_columns_have_not_made_up_for(bounds: tuple[int, int]) -> None:
    weights, scales, inputs = a_group(37, 3, seed=0)
    numbers, scale, errors = round_group(weights, scales, factor(inputs), *bounds)
    assert torch.equal(numbers, numbers.round().clamp(*bounds))
    assert (scale == storable(scales).float()).any(0).all()
    # |(w - q s) R|^2 is the sum of the squares of the errors that are left (arxiv.org/abs/2210.17323).
    root = torch.linalg.cholesky(inputs.flip(0, 1).double()).flip(0, 1)
    off = (weights - numbers * scale).double()
    torch.testing.assert_close(
        (root.T @ off).square().sum(0), errors.double().square().sum(0), rtol=1e-3, atol=1e-4
    )


@pytest.mark.usefixtures("torch_or_level")
@pytest.mark.parametrize("bounds", RANGES, ids=["int4", "int8"])
def test_settling_leaves_no_number_that_another_would_better(bounds: tuple[int, int]) -> None:
    weights, scales, inputs = a_group(37, 1, seed=1)
    numbers, scale, _ = round_group(weights, scales, factor(inputs), *bounds)
    off = weights - numbers * scale
    before = ((inputs @ off) * off).sum(0)
    for _ in range(50):
        settle_group(numbers, off, scale, inputs @ off, inputs, *bounds)
    torch.testing.assert_close(off, weights - numbers * scale, rtol=0, atol=1e-4)
    least = ((inputs @ off) * off).sum(0)
    assert (least <= before * (1 + 1e-4)).all()
    for j in range(32):
        for step in (-1.0, 1.0):
            other = numbers.clone()
            other[j] = (other[j] + step).clamp(*bounds)
            change = weights - other * scale
            assert (((inputs @ change) * change).sum(0) >= least * (1 - 1e-4) - 1e-4).all()


@pytest.mark.skipif(not native.library(), reason="the native library is not built")
@pytest.mark.parametrize("bounds", RANGES, ids=["int4", "int8"])
@given(rows=st.integers(1, 200), choices=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_every_level_rounds_as_torch_does_to_the_bit(
    bounds: tuple[int, int], rows: int, choices: int, seed: int
) -> None:
    weights, scales, inputs = a_group(rows, choices, seed)
    inverse = factor(inputs)
    wanted = column_group._round_by_torch(weights, storable(scales).float(), inverse, *bounds)
    off = weights - wanted[0] * wanted[1]
    settled, left = wanted[0].clone(), off.clone()
    column_group._settle_by_torch(settled, left, wanted[1], inputs @ off, inputs, *bounds)
    for level in native.levels():
        with native.use_level(level):
            found = round_group(weights, scales, inverse, *bounds)
            for one, other in zip(found, wanted, strict=True):
                assert torch.equal(one, other)
            numbers, remaining = found[0].clone(), off.clone()
            settle_group(numbers, remaining, found[1], inputs @ off, inputs, *bounds)
            assert torch.equal(numbers, settled)
            assert torch.equal(remaining, left)
