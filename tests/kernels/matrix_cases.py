"""Inputs of WKV-6 and WKV-7 and what they must give: outputs and gradients of the reference in float64."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from receptance import kernels
from tests.kernels.ways import Way, native_ways

OPERATORS = {"wkv6": kernels.wkv6, "wkv7": kernels.wkv7}
NAMES = {"wkv6": ("r", "k", "v", "w", "u", "state"), "wkv7": ("r", "w", "k", "v", "a", "b", "state")}

# Largest difference allowed from float64, relative to the largest entry of the tensor. r, k, v, y and their
# gradients are rounded to the dtype of r, k and v (the first number); everything else is not (the second).
TOLERANCES = {torch.float64: (1e-12, 1e-12), torch.float32: (2e-5, 2e-5), torch.bfloat16: (8e-3, 2e-5)}


NARROW = (torch.float32, torch.bfloat16)
NATIVE = [way for operator in OPERATORS for way in native_ways(operator, NARROW)]
CHUNKED = [Way(o, "chunked", dtype) for o in OPERATORS for dtype in (torch.float64, *NARROW)]
FAST = [*NATIVE, *CHUNKED]
FLOAT32 = [way for way in FAST if way.dtype == torch.float32]


def make_inputs(
    operator: str,
    time: int,
    sizes: tuple[int, int] = (8, 8),
    dtype: torch.dtype = torch.float32,
    *,
    batch: int = 2,
    head: int = 2,
    fastest: float = 4.0,
) -> list[Tensor]:
    """Return the operator's arguments; sizes are of key and value; the fastest decay is e^-fastest a step."""
    generator = torch.Generator().manual_seed(time + sizes[0])
    key, value = sizes

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    r, k, v = (normal(batch, time, head, size).to(dtype) for size in (key, key, value))
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    w = -fastest * torch.rand(batch, time, head, key, generator=generator) ** 4
    if operator == "wkv6":
        rest = [normal(head, key), normal(batch, head, key, value)]
        return [r, k, v, *(x.to(exact) for x in (w, *rest))]
    kappa = F.normalize(normal(batch, time, head, key), dim=-1)
    share = torch.rand(batch, time, head, key, generator=generator)
    a, b, state = (x.to(exact) for x in (-kappa, kappa * share, normal(batch, head, value, key)))
    return [r, w.to(exact), k, v, a, b, state]


def call(way: Way, inputs: list[Tensor]) -> list[Tensor]:
    """Return y and the state."""
    with way.use():
        return list(OPERATORS[way.operator](*inputs))


def run(way: Way, inputs: list[Tensor], weights: list[Tensor]) -> dict[str, Tensor]:
    """Return y, the last state, and the gradient of each input, by name."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with way.use():
        outputs = call(way, leaves)
        loss = sum(
            (weight.to(x.dtype) * x).double().sum() for weight, x in zip(weights, outputs, strict=True)
        )
        assert isinstance(loss, Tensor)
        gradients = torch.autograd.grad(loss, leaves)
    named = {f"grad_{n}": x for n, x in zip(NAMES[way.operator], gradients, strict=True)}
    return {"y": outputs[0].detach(), "state_end": outputs[1].detach(), **named}


@cache
def case(
    operator: str, time: int, sizes: tuple[int, int], dtype: torch.dtype, fastest: float = 4.0
) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Return inputs in the dtype, weights of a loss, and what the reference gives for them in float64."""
    inputs = make_inputs(operator, time, sizes, dtype, fastest=fastest)
    weights = [torch.randn_like(x).to(dtype).double() for x in call(Way(operator, "reference"), inputs)]
    wide = [x.double() for x in inputs]
    return inputs, weights, run(Way(operator, "reference", torch.float64), wide, weights)


def assert_as_expected(way: Way, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare by the tolerances of the way's dtype."""
    narrow, wide = TOLERANCES[way.dtype]
    for name, wanted in expected.items():
        allowed = narrow if name in {"y", "grad_r", "grad_k", "grad_v"} else wide
        difference = (actual[name].double() - wanted).abs().max() / wanted.abs().max().clamp_min(1.0)
        assert float(difference) <= allowed, f"{name}: off by {difference:.1e}, allowed {allowed:.1e}"
