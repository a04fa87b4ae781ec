from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance import kernels, native
from receptance.errors import ConfigError, KernelError
from tests.kernels.ways import Way
from tests.kernels.wkv4_cases import (
    EMPTY,
    EVERY,
    FLOAT32,
    WIDE_KEYS,
    assert_as_expected,
    call,
    case,
    make_inputs,
    make_weights,
    rescaled,
    run,
)

SHAPES = [(1, 1), (1, 33), (2, 3), (15, 33), (16, 16), (17, 3), (33, 33), (63, 1), (63, 40), (1000, 33)]
DECAYS = [-1e-9, -1e-3, -0.3, -20.0, -1e4]


def test_the_reference_is_the_sum_of_the_paper() -> None:
    k, v, w, u, *sums = make_inputs(1, 12, 3, torch.float64, empty=True)
    y, _ = kernels.wkv4(k, v, w, u, (sums[0], sums[1], sums[2]))
    for channel in range(3):
        for t in range(12):
            exponents = [float(k[0, i, channel] + (t - 1 - i) * w[channel]) for i in range(t)]
            weights = [math.exp(x) for x in (*exponents, float(u[channel] + k[0, t, channel]))]
            mean = sum(x * float(v[0, i, channel]) for i, x in enumerate(weights)) / sum(weights)
            assert float(y[0, t, channel]) == pytest.approx(mean, rel=1e-13)


@pytest.mark.parametrize("way", EVERY, ids=str)
@pytest.mark.parametrize(("time", "channel"), SHAPES)
@pytest.mark.parametrize("empty", [False, True], ids=["sums", "empty"])
def test_outputs_sums_and_gradients_are_those_of_float64(
    way: Way, time: int, channel: int, empty: bool
) -> None:
    inputs, weights, *expected = case(2, time, channel, way.dtype, empty=empty)
    assert_as_expected(way, run(way, inputs, weights, expected[0][3]), (expected[0], expected[1]))


@pytest.mark.parametrize("way", EVERY, ids=str)
@pytest.mark.parametrize("time", [2, 63, 1000])
def test_keys_spread_over_hundreds_change_nothing(way: Way, time: int) -> None:
    inputs, weights, *expected = case(2, time, 16, way.dtype, spread=40.0)
    actual = run(way, inputs, weights, expected[0][3])
    assert_as_expected(way, actual, (expected[0], expected[1]), WIDE_KEYS)


@pytest.mark.parametrize("way", [way for way in EVERY if way.dtype != torch.bfloat16], ids=str)
@pytest.mark.parametrize("time", [1, 16, 63])
def test_a_loss_may_look_at_a_b_and_p_each_on_its_own(way: Way, time: int) -> None:
    inputs, weights, *_ = case(2, time, 33, way.dtype)
    inputs64 = [x.double() for x in inputs]
    expected = run(Way("wkv4", "reference", torch.float64), inputs64, weights)
    assert_as_expected(way, run(way, inputs, weights), expected)


@pytest.mark.parametrize("way", FLOAT32, ids=str)
@pytest.mark.parametrize("seen", [0, 1, 2, 3], ids=["y", "a", "b", "p"])
def test_a_loss_may_look_at_one_output_alone(way: Way, seen: int) -> None:
    inputs, weights, *_ = case(2, 17, 16, way.dtype)

    def gradients(way: Way, inputs: list[Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        loss = (weights[seen] * call(way, leaves)[seen]).sum()
        return list(torch.autograd.grad(loss, leaves, materialize_grads=True))

    inputs64 = [x.double() for x in inputs]
    expected = (
        call(Way("wkv4", "scan"), inputs64),
        gradients(Way("wkv4", "reference", torch.float64), inputs64),
    )
    assert_as_expected(way, (call(way, inputs), gradients(way, inputs)), expected)


@pytest.mark.parametrize("way", FLOAT32, ids=str)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_nothing_overflows(way: Way, decay: float, spread: float) -> None:
    inputs = make_inputs(1, 8192, 3, empty=True)
    inputs[0] = spread * (2 * torch.rand(1, 8192, 3, generator=torch.Generator().manual_seed(0)) - 1)
    inputs[2] = torch.full((3,), decay)
    outputs, gradients = run(way, inputs, make_weights(1, 8192, 3))
    assert all(bool(torch.isfinite(x).all()) for x in (*outputs, *gradients))
    y, v = outputs[0], inputs[1]
    slack = 1e-6 * v.abs().amax(1)
    assert bool((y.amax(1) <= v.amax(1) + slack).all())
    assert bool((y.amin(1) >= v.amin(1) - slack).all())


@pytest.mark.parametrize("way", FLOAT32, ids=str)
def test_a_large_bonus_makes_y_the_current_value_and_a_small_one_leaves_the_past(way: Way) -> None:
    inputs = make_inputs(1, 40, 2)
    inputs[3] = torch.tensor([1e3, -1e3])
    y, *_ = call(way, inputs)
    torch.testing.assert_close(y[..., 0], inputs[1][..., 0])
    assert float((y[..., 1] - inputs[1][..., 1]).abs().min()) > 1e-6


@pytest.mark.parametrize("way", FLOAT32, ids=str)
def test_the_first_token_of_a_text_gives_its_own_value(way: Way) -> None:
    inputs = make_inputs(2, 20, 5, empty=True)
    torch.testing.assert_close(call(way, inputs)[0][:, 0], inputs[1][:, 0], rtol=2e-7, atol=0.0)


@pytest.mark.parametrize("way", FLOAT32, ids=str)
def test_channels_that_forget_fast_have_an_accurate_gradient_of_their_decay(way: Way) -> None:
    inputs = make_inputs(2, 200, 8, spread=1.0)
    inputs[2] = torch.linspace(-20.0, -5.0, 8)
    weights = make_weights(2, 200, 8)
    expected = run(Way("wkv4", "reference", torch.float64), [x.double() for x in inputs], weights)[1][2]
    torch.testing.assert_close(run(way, inputs, weights)[1][2].double(), expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("way", FLOAT32, ids=str)
def test_a_nan_stays_in_its_channel_and_is_not_hidden(way: Way) -> None:
    inputs = make_inputs(1, 40, 3)
    inputs[0][0, 20, 1] = torch.nan
    y, *_ = call(way, inputs)
    assert bool(y[0, 20:, 1].isnan().all())
    assert not bool(y[..., [0, 2]].isnan().any())


@pytest.mark.parametrize("way", EVERY, ids=str)
@settings(deadline=None, max_examples=10)
@given(data=st.data(), time=st.integers(2, 80), channel=st.integers(1, 40), batch=st.integers(1, 3))
def test_splitting_a_text_changes_nothing(
    way: Way, data: st.DataObject, time: int, channel: int, batch: int
) -> None:
    cut = data.draw(st.integers(1, time - 1))
    inputs = make_inputs(batch, time, channel, way.dtype)
    k, v, *rest = inputs
    whole = call(way, inputs)
    first = call(way, [k[:, :cut], v[:, :cut], *rest])
    second = call(way, [k[:, cut:], v[:, cut:], *rest[:2], *first[1:]])
    expected = rescaled(whole, whole[3].double())
    joined = rescaled([torch.cat([first[0], second[0]], dim=1), *second[1:]], whole[3].double())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-3}[way.dtype]
    for x, y in zip(joined, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("way", FLOAT32, ids=str)
@settings(deadline=None, max_examples=10)
@given(batch=st.integers(1, 4), time=st.integers(1, 70), channel=st.integers(1, 80), seed=st.integers(0, 99))
def test_any_shape_gives_the_gradients_of_float64(
    way: Way, batch: int, time: int, channel: int, seed: int
) -> None:
    inputs = make_inputs(batch, time, channel, seed=seed)
    inputs64, weights = [x.double() for x in inputs], make_weights(batch, time, channel)
    p = call(Way("wkv4", "scan"), inputs64)[3]
    expected = run(Way("wkv4", "scan", torch.float64), inputs64, weights, p)
    assert_as_expected(way, run(way, inputs, weights, p), expected)


@pytest.mark.parametrize("way", EVERY, ids=str)
def test_strided_inputs_are_read_as_they_are_meant(way: Way) -> None:
    inputs = make_inputs(3, 20, 7, way.dtype)
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in inputs]
    assert not strided[0].is_contiguous()
    weights = make_weights(3, 20, 7)
    torch.testing.assert_close(run(way, strided, weights), run(way, inputs, weights), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("forward", ["native", "scan"])
@pytest.mark.parametrize("backward", ["native", "scan"])
@pytest.mark.skipif(native.library() is None, reason=str(native.unavailable_reason()))
def test_what_one_implementation_keeps_another_can_read(forward: str, backward: str) -> None:
    inputs, weights, *_ = case(2, 63, 33, torch.float32)
    wkv4, wkv4_backward = torch.ops.receptance.wkv4, torch.ops.receptance.wkv4_backward
    y, a, b, p, checkpoints = wkv4(*inputs, forward, True)
    grads = [weights[0].float(), *(torch.zeros_like(x) for x in (a, b, p))]
    gradients = wkv4_backward(*inputs[:4], checkpoints, a, b, p, *grads, backward)
    only_y = [weights[0], *(torch.zeros_like(x) for x in weights[1:])]
    wanted = run(Way("wkv4", "reference", torch.float64), [x.double() for x in inputs], only_y)
    assert_as_expected(Way("wkv4", backward), ([y, a, b, p], list(gradients)), wanted)


def test_where_no_gradient_is_wanted_nothing_is_kept() -> None:
    inputs = make_inputs(1, 40, 3)
    *_, checkpoints = torch.ops.receptance.wkv4(*inputs, None, False)
    assert checkpoints.numel() == 0
    *_, checkpoints = torch.ops.receptance.wkv4(*inputs, None, True)
    assert checkpoints.shape == (1, 3, 3, 3)


@pytest.mark.parametrize("implementation", [None, "scan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("time", [1, 20])
def test_torch_accepts_the_operators(implementation: str | None, dtype: torch.dtype, time: int) -> None:
    inputs = [x.requires_grad_() for x in make_inputs(2, time, 5, dtype)]
    plain = [x.detach() for x in inputs]
    wkv4, wkv4_backward = torch.ops.receptance.wkv4, torch.ops.receptance.wkv4_backward
    torch.library.opcheck(wkv4, (*inputs, implementation, True))
    torch.library.opcheck(wkv4, (*plain, implementation, False))
    y, a, b, p, checkpoints = wkv4(*plain, implementation, True)
    saved = (*plain[:4], checkpoints, a, b, p)
    torch.library.opcheck(wkv4_backward, (*saved, y, a, b, p, implementation))
    torch.library.opcheck(wkv4_backward, (*saved, None, a, None, None, implementation))


def test_a_compiled_graph_gives_the_same_and_has_no_break() -> None:
    def step(*inputs: Tensor) -> Tensor:
        k, v, w, u, a, b, p = inputs
        y, sums = kernels.wkv4(torch.tanh(k), v, -torch.exp(w), u, (a, b, p))
        return (y.square().mean() + sum(x.square().mean() for x in sums)) / 2

    inputs = [x.requires_grad_() for x in make_inputs(2, 40, 16)]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, actual = step(*inputs), compiled(*inputs)
    torch.testing.assert_close(actual, expected)
    for x, y in zip(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(x, y)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), expected)
    with (
        kernels.use(wkv4="reference"),
        pytest.raises(KernelError, match="cannot run inside a compiled graph"),
    ):
        compiled(*inputs)


def test_a_shape_that_does_not_fit_is_named() -> None:
    k, v, w, u, a, b, p = make_inputs(2, 4, 3)
    with pytest.raises(ConfigError, match=r"one shape .* got \(2, 4, 3\) and \(2, 3, 3\)"):
        kernels.wkv4(k, v[:, :3], w, u, (a, b, p))
    with pytest.raises(ConfigError, match="at least one token"):
        kernels.wkv4(k[:, :0], v[:, :0], w, u, (a, b, p))
    with pytest.raises(ConfigError, match=r"the sums \(2, 3\); got \(3,\), \(3,\), \(1, 3\)"):
        kernels.wkv4(k, v, w, u, (a[:1], b, p))
    with pytest.raises(ConfigError, match=r"one dtype, .* got torch.float32, torch.float32, torch.float64"):
        kernels.wkv4(k, v, w, u, (a.double(), b, p))


def test_what_cannot_be_differentiated_says_so() -> None:
    inputs = [x.requires_grad_() for x in make_inputs(1, 4, 3)]
    y, *_ = torch.ops.receptance.wkv4(*inputs, None, False)
    with pytest.raises(KernelError, match="keep=False"):
        y.sum().backward()
    y, _ = kernels.wkv4(*inputs[:4], (inputs[4], inputs[5], inputs[6]))
    (first,) = torch.autograd.grad(y.square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(KernelError, match="only the implementation 'reference' has second derivatives"):
        first.sum().backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_gradients_of_float64() -> None:
    inputs, weights, *expected = case(2, 63, 33, torch.float32)
    outputs, gradients = run(
        Way("wkv4", "scan"), [x.cuda() for x in inputs], [x.cuda() for x in weights], expected[0][3].cuda()
    )
    actual = [x.cpu() for x in outputs], [x.cpu() for x in gradients]
    assert_as_expected(Way("wkv4", "scan"), actual, (expected[0], expected[1]))


def test_sums_that_hold_nothing_are_the_same_below_every_key() -> None:
    inputs = make_inputs(1, 20, 3, empty=True)
    assert float(inputs[6][0, 0]) == pytest.approx(EMPTY)
    for x, y in zip(
        call(Way("wkv4", "scan"), inputs),
        call(Way("wkv4", "scan"), [*inputs[:6], inputs[6] / 1e8]),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=0.0, atol=0.0)
