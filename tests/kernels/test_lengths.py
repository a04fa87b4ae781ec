"""Rows of different length in one call of an operator, held to the reference on each row alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receptance import kernels
from receptance.errors import ConfigError
from receptance.kernels.lengths import check_lengths, is_padding
from tests.kernels import matrix_cases, wkv4_cases
from tests.kernels.ways import Way

TIME = 40
LENGTHS = torch.tensor([0, 7, 16, 33, 40])
REAL = ~is_padding(LENGTHS, TIME)
# Tolerances as in the tests of whole batches: what is rounded to the dtype of the inputs, and what is not.
ROUNDED = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 8e-3}
REFERENCES = [Way(o, "reference", torch.float64) for o in matrix_cases.OPERATORS]


def with_wild_padding(inputs: list[Tensor]) -> list[Tensor]:
    """Return the inputs with large values after the end of each row, where there is time."""
    return [x.clone().index_put_((~REAL,), torch.tensor(-50.0).to(x)) if has_time(x) else x for x in inputs]


def has_time(x: Tensor) -> bool:
    return x.shape[:2] == REAL.shape


def rows_alone(inputs: list[Tensor]) -> list[list[Tensor]]:
    """Return the inputs of each row, none where it is empty, as views: their gradients meet in the whole."""
    rows = []
    for row, length in enumerate(LENGTHS.tolist()):
        one = [x if x.shape[0] != len(LENGTHS) else x[row : row + 1] for x in inputs]
        rows.append([y[:, :length] if has_time(x) else y for x, y in zip(inputs, one, strict=True)])
    return rows


def loss(y: Tensor, ends: list[Tensor], weights: list[Tensor]) -> Tensor:
    """Look at every real output and at every state."""
    parts = [(weight.to(x.dtype) * x).double().sum() for weight, x in zip(weights, (y, *ends), strict=True)]
    return torch.stack(parts).sum()


def draw(like: Tensor) -> Tensor:
    """Return numbers of this shape, the same every time."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    scale = float(expected.detach().abs().max().clamp_min(1.0))
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0.0, atol=tolerance * scale, msg=lambda m: f"{name}: {m}"
    )


@pytest.mark.parametrize("way", [*matrix_cases.FAST, *REFERENCES], ids=str)
def test_each_row_of_the_matrix_operators_is_as_if_alone(way: Way) -> None:
    names, operator = matrix_cases.NAMES[way.operator], matrix_cases.OPERATORS[way.operator]
    inputs = with_wild_padding(
        matrix_cases.make_inputs(way.operator, TIME, (5, 11), way.dtype, batch=len(LENGTHS))
    )
    inputs[names.index("w")].clamp_(-4.0, 0.0)
    wide = [x.double().requires_grad_() for x in inputs]
    outputs, states = [], []
    with kernels.use(**{way.operator: "reference"}):
        for row, length in zip(rows_alone(wide), LENGTHS.tolist(), strict=True):
            y, state = operator(*row) if length else (row[names.index("v")], row[-1])
            outputs.append(y[0])
            states.append(state[0])
    expected, ends = torch.cat(outputs), torch.stack(states)
    weights = [draw(expected).to(way.dtype), draw(ends)]
    gradients = torch.autograd.grad(loss(expected, [ends], weights), wide)

    leaves = [x.clone().requires_grad_() for x in inputs]
    with way.use():
        y, state = operator(*leaves, LENGTHS)
    found = torch.autograd.grad(loss(y[REAL], [state], weights), leaves)
    assert y.isfinite().all()
    assert torch.equal(state[0], leaves[-1][0])
    assert_close(y[REAL], expected, ROUNDED[way.dtype], "y")
    exact = min(ROUNDED[way.dtype], 2e-5)
    assert_close(state, ends, exact, "state")
    for name, actual, wanted in zip(names, found, gradients, strict=True):
        assert_close(actual, wanted, ROUNDED[way.dtype] if name in "rkv" else exact, f"gradient of {name}")


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("way", wkv4_cases.EVERY, ids=str)
def test_each_row_of_wkv4_is_as_if_alone(way: Way, empty: bool) -> None:
    inputs = with_wild_padding(wkv4_cases.make_inputs(len(LENGTHS), TIME, 13, way.dtype, empty=empty))
    wide = [x.double().requires_grad_() for x in inputs]
    outputs, states = [], []
    with kernels.use(wkv4="reference"):
        for (k, v, w, u, a, b, p), length in zip(rows_alone(wide), LENGTHS.tolist(), strict=True):
            y, sums = kernels.wkv4(k, v, w, u, (a, b, p)) if length else (k, (a, b, p))
            outputs.append(y[0])
            states.append(torch.cat(sums))
    expected, ends = torch.cat(outputs), torch.stack(states)
    weights = [draw(expected).to(way.dtype), draw(ends)]
    gradients = torch.autograd.grad(loss(expected, [ends], weights), wide)

    leaves = [x.clone().requires_grad_() for x in inputs]
    k, v, w, u, a, b, p = leaves
    with way.use():
        y, sums = kernels.wkv4(k, v, w, u, (a, b, p), LENGTHS)
    state = torch.stack(sums, dim=1)
    found = torch.autograd.grad(loss(y[REAL], [state], weights), leaves)
    assert y.isfinite().all()
    assert torch.equal(state[0], torch.stack([a[0], b[0], p[0]]))
    assert_close(y[REAL], expected, ROUNDED[way.dtype], "y")
    exact = min(ROUNDED[way.dtype], 2e-5)
    assert_close(state, ends, exact, "sums")
    for name, actual, wanted in zip("kvwuabp", found, gradients, strict=True):
        assert_close(actual, wanted, ROUNDED[way.dtype] if name in "kv" else exact, f"gradient of {name}")


def test_the_sums_of_wkv4_survive_long_padding_at_any_decay() -> None:
    k, v, w, u, a, b, p = wkv4_cases.make_inputs(1, 4_000, 8)
    w = torch.linspace(-25.0, 0.0, 8)
    _, sums = kernels.wkv4(k, v, w, u, (a, b, p), torch.tensor([3]))
    _, alone = kernels.wkv4(k[:, :3], v[:, :3], w, u, (a, b, p))
    torch.testing.assert_close(sums, alone, rtol=1e-5, atol=1e-5)


def test_a_compiled_graph_serves_all_lengths() -> None:
    compiled = torch.compile(kernels.wkv6, fullgraph=True, backend="aot_eager")
    inputs = matrix_cases.make_inputs("wkv6", TIME, batch=len(LENGTHS))
    compiled(*inputs, LENGTHS)
    with torch.compiler.set_stance("fail_on_recompile"):
        y, state = compiled(*inputs, LENGTHS.flip(0))
    torch.testing.assert_close((y, state), kernels.wkv6(*inputs, LENGTHS.flip(0)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_integers_will_do(dtype: torch.dtype) -> None:
    inputs = matrix_cases.make_inputs("wkv7", TIME, batch=len(LENGTHS))
    assert torch.equal(kernels.wkv7(*inputs, LENGTHS.to(dtype))[1], kernels.wkv7(*inputs, LENGTHS)[1])
    k, v, w, u, *sums = wkv4_cases.make_inputs(len(LENGTHS), TIME, 4)
    narrow = kernels.wkv4(k, v, w, u, (sums[0], sums[1], sums[2]), LENGTHS.to(dtype))
    torch.testing.assert_close(narrow, kernels.wkv4(k, v, w, u, (sums[0], sums[1], sums[2]), LENGTHS))


@pytest.mark.parametrize(
    ("lengths", "complaint"),
    [
        (torch.tensor([1, 2]), r"torch.int64 of shape \(2,\), but they must be integers of shape \(3,\)"),
        (torch.tensor([[1], [2], [3]]), r"of shape \(3, 1\), but"),
        (torch.tensor([1.0, 2.0, 3.0]), "lengths are torch.float32"),
        (torch.tensor([True, False, True]), "lengths are torch.bool"),
        (torch.tensor([4, 5, -1]), r"lengths\[2\] is -1, but it must be from 0 to 5"),
        (torch.tensor([4, 6, -1]), r"lengths\[1\] is 6, but it must be from 0 to 5"),
    ],
)
def test_lengths_that_no_batch_can_have_are_refused(lengths: Tensor, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_lengths(lengths, batch=3, time=5)
    for operator in matrix_cases.OPERATORS:
        inputs = matrix_cases.make_inputs(operator, 5, batch=3)
        with pytest.raises(ConfigError, match=complaint):
            matrix_cases.OPERATORS[operator](*inputs, lengths)
    k, v, w, u, a, b, p = wkv4_cases.make_inputs(3, 5, 4)
    with pytest.raises(ConfigError, match=complaint):
        kernels.wkv4(k, v, w, u, (a, b, p), lengths)
