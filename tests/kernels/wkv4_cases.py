"""Inputs of WKV-4 and what it must give: outputs, final sums and gradients of the reference in float64."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from receptance import kernels
from tests.kernels.ways import Way, native_ways

EMPTY = -1e38

# Largest difference allowed from float64, relative to the largest entry of the tensor. k, v, y and their
# gradients are rounded to the dtype of k and v (the first number); everything else is not (the second).
TOLERANCES = {
    ("scan", torch.float64): (1e-12, 1e-12),
    ("scan", torch.float32): (1e-5, 1e-5),
    ("scan", torch.bfloat16): (8e-3, 1e-5),
    ("native", torch.float32): (1e-5, 1e-5),
    ("native", torch.bfloat16): (8e-3, 1e-5),
    ("reference", torch.float64): (1e-12, 1e-12),
}
# Times as much where keys are spread over hundreds: float32 tells exponents of that size apart less well.
WIDE_KEYS = 4.0


NATIVE = native_ways("wkv4", (torch.float32, torch.bfloat16))
SCAN = [Way("wkv4", "scan", dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)]
REFERENCE = [Way("wkv4", "reference", torch.float64)]
EVERY = [*NATIVE, *SCAN, *REFERENCE]
FLOAT32 = [way for way in EVERY if way.dtype == torch.float32]


def make_inputs(
    batch: int,
    time: int,
    channel: int,
    dtype: torch.dtype = torch.float32,
    *,
    spread: float = 3.0,
    empty: bool = False,
    seed: int = 0,
) -> list[Tensor]:
    """Return k, v, w, u, a, b, p; k and v in the dtype, the others in float32 (or all in float64)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    k, v, u = spread * normal(batch, time, channel), normal(batch, time, channel), normal(channel)
    w = -torch.exp(8 * torch.rand(channel, generator=generator) - 5)
    a, b, p = normal(batch, channel), normal(batch, channel).abs() + 0.5, spread * normal(batch, channel)
    if empty:
        a, b, p = torch.zeros_like(a), torch.zeros_like(b), torch.full_like(p, EMPTY)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [k.to(dtype), v.to(dtype), *(x.to(wide) for x in (w, u, a, b, p))]


def make_weights(batch: int, time: int, channel: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return what to multiply y, a, b and p with, to make a loss that looks at each of them."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(batch, time, channel, generator=generator).to(dtype)
    return [y, *(torch.randn(batch, channel, generator=generator) for _ in range(3))]


def call(way: Way, inputs: list[Tensor]) -> list[Tensor]:
    """Return y, a, b, p."""
    with way.use():
        y, sums = kernels.wkv4(*inputs[:4], (inputs[4], inputs[5], inputs[6]))
    return [y, *sums]


def run(
    way: Way, inputs: list[Tensor], weights: list[Tensor], scale: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return (y, a, b, p) and the gradients of all inputs; the loss sees a and b in the scale of this p."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with way.use():
        outputs = call(way, leaves)
        seen = outputs if scale is None else rescaled(outputs, scale)
        loss = torch.stack([(weight * x).sum() for weight, x in zip(weights, seen, strict=True)]).sum()
        gradients = torch.autograd.grad(loss, leaves)
    return [x.detach() for x in outputs], list(gradients)


@cache
def case(
    batch: int, time: int, channel: int, dtype: torch.dtype, spread: float = 3.0, empty: bool = False
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Return inputs and weights in the dtype, and the outputs and gradients of the reference in float64."""
    inputs = make_inputs(batch, time, channel, dtype, spread=spread, empty=empty)
    weights = make_weights(batch, time, channel, dtype)
    inputs64 = [x.double() for x in inputs]
    weights = [weight.double() for weight in weights]
    p = call(Way("wkv4", "reference", torch.float64), inputs64)[3]
    outputs, gradients = run(Way("wkv4", "reference", torch.float64), inputs64, weights, p)
    return inputs, weights, outputs, gradients


def rescaled(outputs: list[Tensor], p: Tensor) -> list[Tensor]:
    """Return the outputs in float64 with a and b in the scale of another p; p itself is only rounded."""
    y, a, b, own = (x.double() for x in outputs)
    return [y, a * torch.exp(own - p), b * torch.exp(own - p), own]


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest entry expected if that is above 1."""
    return float((actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1.0))


def assert_as_expected(
    way: Way,
    actual: tuple[list[Tensor], list[Tensor]],
    expected: tuple[list[Tensor], list[Tensor]],
    slack: float = 1.0,
) -> None:
    """Compare (outputs, gradients) by the tolerances of the way, times the slack."""
    narrow, wide = (slack * tolerance for tolerance in TOLERANCES[way.implementation, way.dtype])
    outputs = zip(("y", "a", "b", "p"), rescaled(actual[0], expected[0][3]), expected[0], strict=True)
    gradients = zip(("k", "v", "w", "u", "a0", "b0", "p0"), actual[1], expected[1], strict=True)
    for name, tensor, wanted in (*outputs, *gradients):
        found, allowed = difference(tensor, wanted), narrow if name in "ykv" else wide
        assert found <= allowed, f"{name}: off by {found:.1e}, allowed {allowed:.1e}"
