from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receptance import kernels, native
from receptance.errors import KernelError
from receptance.kernels.adamw_arguments import Parameter, Rates
from tests.kernels.ways import Way, native_ways

RATES = Rates(learning_rate=3e-3, weight_decay=0.1, betas=(0.9, 0.99), epsilon=1e-8)
STEPS = 20

NATIVE = native_ways("adamw")
EVERY = [*NATIVE, Way("adamw", "torch"), Way("adamw", "reference")]


def make_parameter(*shape: int, dtype: torch.dtype = torch.float32) -> Parameter:
    """Return a parameter before its first step, with its weight in this number format."""
    master = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = master if dtype == torch.float32 else master.to(dtype)
    moments = torch.zeros_like(master), torch.zeros_like(master), torch.zeros(())
    return Parameter(weight, master, torch.zeros_like(weight), *moments)


def gradient(step: int, like: Tensor) -> Tensor:
    """Return a gradient with elements of very different size."""
    generator = torch.Generator().manual_seed(step)
    normal = torch.randn((2, *like.shape), generator=generator)
    return (normal[0] * torch.exp(2 * normal[1])).to(like.dtype)


def stepped(way: Way, parameter: Parameter, rates: Rates = RATES) -> Parameter:
    """Take some steps, each with another gradient."""
    with way.use():
        for step in range(STEPS):
            parameter.gradient.copy_(gradient(step, parameter.gradient))
            kernels.adamw([parameter], rates)
    return parameter


def in_float64(parameter: Parameter, rates: Rates = RATES) -> tuple[Tensor, Tensor, Tensor]:
    """Return master, mean and square by the formula of the paper (arxiv.org/abs/1711.05101, algorithm 2)."""
    weight, (beta1, beta2) = parameter.master.double(), rates.betas
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, STEPS + 1):
        g = gradient(step - 1, parameter.gradient).double() * rates.gradient_scale
        mean, square = beta1 * mean + (1 - beta1) * g, beta2 * square + (1 - beta2) * g * g
        change = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + rates.epsilon)
        weight = weight - rates.learning_rate * (change + rates.weight_decay * weight)
    return weight, mean, square


@pytest.mark.parametrize("way", EVERY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1,), (5, 7), (16, 64), (33, 1001)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_masters_and_moments_are_those_of_the_formula_in_float64(
    way: Way, dtype: torch.dtype, shape: tuple[int, ...], scale: float
) -> None:
    rates = Rates(**{**RATES.__dict__, "gradient_scale": scale})
    parameter = make_parameter(*shape, dtype=dtype)
    master, mean, square = in_float64(parameter, rates)
    stepped(way, parameter, rates)
    torch.testing.assert_close(parameter.master.double(), master, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        parameter.exp_avg.double(), mean, rtol=1e-5, atol=1e-6 * float(mean.abs().max())
    )
    torch.testing.assert_close(parameter.exp_avg_sq.double(), square, rtol=1e-5, atol=0)
    assert float(parameter.step) == STEPS


@pytest.mark.parametrize("way", [*NATIVE, Way("adamw", "reference")], ids=str)
def test_it_is_the_adamw_of_torch(way: Way) -> None:
    ours = stepped(way, make_parameter(40, 50))
    theirs = make_parameter(40, 50).master.requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    for step in range(STEPS):
        theirs.grad = gradient(step, theirs)
        optimizer.step()
    torch.testing.assert_close(ours.master, theirs.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", EVERY, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_weight_is_the_rounded_master(way: Way, dtype: torch.dtype) -> None:
    if (way.implementation, dtype) == ("native", torch.float16):
        pytest.skip("compiled for float32 and bfloat16")
    parameter = stepped(way, make_parameter(9, 70, dtype=dtype))
    assert torch.equal(parameter.weight, parameter.master.to(dtype))


@pytest.mark.parametrize("way", EVERY, ids=str)
def test_a_gradient_in_float32_serves_a_weight_of_16_bits(way: Way) -> None:
    narrow, wide = (make_parameter(8, 9, dtype=torch.bfloat16) for _ in range(2))
    narrow.gradient.copy_(gradient(0, narrow.gradient))
    wide = Parameter(
        wide.weight, wide.master, narrow.gradient.float(), wide.exp_avg, wide.exp_avg_sq, wide.step
    )
    with way.use():
        kernels.adamw([narrow, wide], RATES)
    assert torch.equal(narrow.master, wide.master)


@pytest.mark.parametrize("way", NATIVE, ids=str)
def test_the_number_of_threads_and_of_processes_changes_no_bit(way: Way) -> None:
    whole, before = make_parameter(300, 333, dtype=torch.bfloat16), torch.get_num_threads()
    parts = make_parameter(300, 333, dtype=torch.bfloat16)
    for one in (whole, parts):
        one.gradient.copy_(gradient(0, one.gradient))
    try:
        torch.set_num_threads(3)
        with way.use():
            kernels.adamw([whole], RATES)
        torch.set_num_threads(1)
        names = ("weight", "master", "gradient", "exp_avg", "exp_avg_sq")
        cut = [[getattr(parts, name)[rows] for name in names] for rows in (slice(101), slice(101, 300))]
        with way.use():
            kernels.adamw([Parameter(*tensors, torch.zeros(())) for tensors in cut], RATES)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(whole.master, parts.master)
    assert torch.equal(whole.weight, parts.weight)


@pytest.mark.parametrize("way", EVERY, ids=str)
def test_a_weight_that_a_graph_still_needs_is_seen_to_have_changed(way: Way) -> None:
    parameter = make_parameter(3, 4, dtype=torch.bfloat16)
    weight = parameter.weight.requires_grad_()
    loss = (torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True) @ weight.T).sum()
    with way.use():
        kernels.adamw([parameter], RATES)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.skipif(not NATIVE, reason=str(native.unavailable_reason()))
def test_the_compiled_kernel_says_what_it_cannot_serve() -> None:
    strided = make_parameter(4, 6)
    columns = Parameter(*(x[:, :2] if x.ndim else x for x in strided.__dict__.values()))
    cases = {
        "got torch.float16": make_parameter(3, dtype=torch.float16),
        "contiguous tensors": columns,
        "on meta": Parameter(*(x.to("meta") for x in strided.__dict__.values())),
    }
    for message, parameter in cases.items():
        with kernels.use(adamw="native"), pytest.raises(KernelError, match=message):
            kernels.adamw([parameter], RATES)
