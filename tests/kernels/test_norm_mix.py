from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance import kernels, native
from receptance.errors import ConfigError, KernelError
from tests.kernels.ways import Way, native_ways

# Largest difference allowed from the reference in float64, relative to the largest entry of the tensor.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 0.02}
EPSILON = 1e-5

NATIVE = native_ways("norm_mix")
EVERY = [*NATIVE, Way("norm_mix", "reference")]


def make_inputs(
    batch: int, time: int, channel: int, mixes: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Tensor]:
    """Return x, weight, bias, shift and shares, some of which lie outside 0 to 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shares = 0.5 + normal(mixes, channel)
    x, shift = 3 * normal(batch, time, channel) + 1, normal(batch, channel)
    return [x.to(dtype), normal(channel), normal(channel), shift.to(dtype), shares]


def run(way: Way, inputs: list[Tensor], used: list[int] | None = None) -> list[Tensor]:
    """Return the outputs, and the gradients of all inputs by the outputs that are used (all)."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    with way.use():
        outputs = kernels.norm_mix(*leaves, EPSILON)
        used = list(range(len(outputs))) if used is None else used
        generator = torch.Generator().manual_seed(1)
        grads = [torch.randn(output.shape, generator=generator).to(output.dtype) for output in outputs]
        gradients = torch.autograd.grad(
            [outputs[i] for i in used],
            leaves,
            [grads[i] for i in used],
            allow_unused=True,
            materialize_grads=True,
        )
    return [output.detach() for output in outputs] + list(gradients)


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for number, (x, y) in enumerate(zip(actual, expected, strict=True)):
        found = float((x.double() - y).abs().max()) / (float(y.abs().max()) or 1.0)
        assert found <= tolerance, f"{number}: off by {found:.1e}, allowed {tolerance:.1e}"


def test_the_reference_is_the_formula_written_out_token_by_token() -> None:
    x, weight, bias, shift, shares = (tensor.double() for tensor in make_inputs(2, 5, 7, 3))
    with kernels.use(norm_mix="reference"):
        seen, *mixed = kernels.norm_mix(x, weight, bias, shift, shares, EPSILON)
    for row in range(2):
        past = shift[row]
        for t in range(5):
            one = x[row, t]
            now = (one - one.mean()) / (one.var(correction=0) + EPSILON).sqrt() * weight + bias
            torch.testing.assert_close(seen[row, t], now)
            for share, each in zip(shares, mixed, strict=True):
                torch.testing.assert_close(each[row, t], (1 - share) * now + share * past)
            past = now


@pytest.mark.parametrize("way", NATIVE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("batch", "time", "channel", "mixes"),
    [(1, 1, 5, 1), (2, 31, 37, 3), (3, 32, 16, 2), (1, 33, 64, 5), (2, 100, 131, 6), (1, 65, 17, 4)],
)
def test_outputs_and_gradients_are_those_of_float64(
    way: Way, dtype: torch.dtype, batch: int, time: int, channel: int, mixes: int
) -> None:
    inputs = make_inputs(batch, time, channel, mixes, dtype)
    expected = run(Way("norm_mix", "reference"), [tensor.double() for tensor in inputs])
    assert_near(run(way, inputs), expected, TOLERANCES[dtype])


@pytest.mark.parametrize("way", NATIVE, ids=str)
@pytest.mark.parametrize("used", [[0], [1], [2, 3], [0, 3]])
def test_outputs_that_are_not_used_have_no_gradient(way: Way, used: list[int]) -> None:
    inputs = make_inputs(2, 40, 24, 3)
    expected = run(Way("norm_mix", "reference"), [tensor.double() for tensor in inputs], used)
    assert_near(run(way, inputs, used), expected, TOLERANCES[torch.float32])


@pytest.mark.parametrize("way", EVERY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@settings(deadline=None, max_examples=10)
@given(time=st.integers(2, 70), channel=st.integers(1, 40), seed=st.integers(0, 99), data=st.data())
def test_splitting_a_text_changes_no_bit(
    way: Way, dtype: torch.dtype, time: int, channel: int, seed: int, data: st.DataObject
) -> None:
    x, weight, bias, shift, shares = make_inputs(2, time, channel, 2, dtype, seed)
    cut = data.draw(st.integers(1, time - 1))
    with way.use():
        whole = kernels.norm_mix(x, weight, bias, shift, shares, EPSILON)
        first = kernels.norm_mix(x[:, :cut], weight, bias, shift, shares, EPSILON)
        second = kernels.norm_mix(x[:, cut:], weight, bias, first[0][:, -1], shares, EPSILON)
    for at_once, *parts in zip(whole, first, second, strict=True):
        assert torch.equal(at_once, torch.cat(parts, dim=1))


@pytest.mark.parametrize("way", NATIVE, ids=str)
def test_the_number_of_threads_changes_no_bit(way: Way) -> None:
    inputs, before = make_inputs(3, 200, 96, 3), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(way, inputs)
        torch.set_num_threads(3)
        together = run(way, inputs)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(alone, together, strict=True))


def test_gradients_are_those_of_finite_differences() -> None:
    inputs = [tensor.double().requires_grad_() for tensor in make_inputs(2, 4, 3, 2)]
    assert torch.autograd.gradcheck(lambda *leaves: kernels.norm_mix(*leaves, EPSILON), inputs)


@pytest.mark.parametrize("way", NATIVE, ids=str)
def test_inputs_may_be_strided_and_parameters_in_16_bits(way: Way) -> None:
    x, weight, bias, shift, shares = make_inputs(4, 40, 32, 2, torch.bfloat16)
    inputs = [x[::2], weight.bfloat16(), bias.bfloat16(), shift[::2], shares.bfloat16()]
    expected = run(Way("norm_mix", "reference"), [tensor.double() for tensor in inputs])
    assert_near(run(way, inputs), expected, TOLERANCES[torch.bfloat16])


@pytest.mark.parametrize("way", NATIVE, ids=str)
def test_a_value_that_is_not_a_number_spoils_its_own_row_alone(way: Way) -> None:
    x, *others = make_inputs(2, 40, 20, 2)
    x[0, 7, 3] = torch.nan
    with way.use():
        outputs = kernels.norm_mix(x, *others, EPSILON)
    for output, spoilt in zip(outputs, ([7], [7, 8], [7, 8]), strict=True):
        bad = output.isnan().any(-1)
        assert bad.nonzero().tolist() == [[0, t] for t in spoilt]


def test_a_compiled_graph_computes_the_same() -> None:
    inputs = make_inputs(2, 9, 16, 3)
    compiled = torch.compile(
        lambda *leaves: kernels.norm_mix(*leaves, EPSILON), fullgraph=True, backend="eager"
    )
    for actual, expected in zip(compiled(*inputs), kernels.norm_mix(*inputs, EPSILON), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("way", NATIVE, ids=str)
def test_a_second_derivative_is_refused(way: Way) -> None:
    inputs = [tensor.requires_grad_() for tensor in make_inputs(1, 3, 4, 1)]
    with way.use(), pytest.raises(KernelError, match="second derivatives"):
        torch.autograd.grad(kernels.norm_mix(*inputs, EPSILON)[1].sum(), inputs[0], create_graph=True)


@pytest.mark.skipif(not NATIVE, reason=str(native.unavailable_reason()))
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (make_inputs(1, 2, 4, 1, torch.float64), "float32 and bfloat16, got torch.float64"),
        (make_inputs(1, 2, 4, 7), "at most 6 mixes, got 7"),
        ([*make_inputs(1, 2, 4, 1)[:-1], torch.empty(1, 4, device="meta")], "several devices: cpu, meta"),
    ],
)
def test_the_compiled_kernel_says_what_it_cannot_serve(inputs: list[Tensor], message: str) -> None:
    with kernels.use(norm_mix="native"), pytest.raises(KernelError, match=message):
        kernels.norm_mix(*inputs, EPSILON)


@pytest.mark.parametrize(
    ("number", "shape"), [(0, (1, 0, 4)), (1, (5,)), (3, (2, 4)), (4, (4,)), (4, (0, 4)), (4, (2, 3))]
)
def test_shapes_that_do_not_fit_are_named(number: int, shape: tuple[int, ...]) -> None:
    inputs = make_inputs(1, 2, 4, 2)
    inputs[number] = torch.zeros(shape)
    with pytest.raises(ConfigError, match=r"norm_mix: .*needs at least one token"):
        kernels.norm_mix(*inputs, EPSILON)


def test_without_shares_of_the_past_it_is_torch_s_layer_norm() -> None:
    x, weight, bias, shift, _ = make_inputs(2, 50, 48, 1)
    expected = F.layer_norm(x, (48,), weight, bias, EPSILON)
    for output in kernels.norm_mix(x, weight, bias, shift, torch.zeros(1, 48), EPSILON):
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
