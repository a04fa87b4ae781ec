"""What WKV-6 and WKV-7 promise, by every implementation at every level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receptance import kernels, native
from receptance.errors import ConfigError, KernelError
from tests.kernels.matrix_cases import (
    FAST,
    FLOAT32,
    NAMES,
    OPERATORS,
    assert_as_expected,
    call,
    case,
    make_inputs,
    run,
)
from tests.kernels.ways import Way

TIMES = [1, 15, 16, 17, 33, 70]
SIZES = [(8, 8), (64, 64), (5, 21)]


@pytest.mark.parametrize("way", FAST, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("time", TIMES)
def test_outputs_state_and_gradients_are_those_of_float64(
    way: Way, time: int, sizes: tuple[int, int]
) -> None:
    inputs, weights, expected = case(way.operator, time, sizes, way.dtype)
    assert_as_expected(way, run(way, inputs, weights), expected)


@pytest.mark.parametrize("way", FLOAT32, ids=str)
def test_decays_of_twenty_a_step_stay_finite_and_exact(way: Way) -> None:
    inputs, weights, expected = case(way.operator, 70, (8, 8), way.dtype, fastest=20.0)
    actual = run(way, inputs, weights)
    assert all(x.isfinite().all() for x in actual.values())
    assert_as_expected(way, actual, expected)
    forgets = [
        torch.full_like(x, -20.0) if name == "w" else x
        for name, x in zip(NAMES[way.operator], inputs, strict=True)
    ]
    assert all(x.isfinite().all() for x in run(way, forgets, weights).values())


@pytest.mark.parametrize("way", FAST, ids=str)
@pytest.mark.parametrize("cut", [1, 16, 19, 32])
def test_splitting_a_text_changes_nothing(way: Way, cut: int) -> None:
    inputs = make_inputs(way.operator, 40, dtype=way.dtype)
    whole = call(way, inputs)
    timed = [name not in {"u", "state"} for name in NAMES[way.operator]]
    left = [x[:, :cut] if moves else x for moves, x in zip(timed, inputs, strict=True)]
    right = [x[:, cut:] if moves else x for moves, x in zip(timed, inputs, strict=True)]
    first = call(way, left)
    second = call(way, [*right[:-1], first[1]])
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1.6e-2}[way.dtype]
    torch.testing.assert_close(torch.cat([first[0], second[0]], 1), whole[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(second[1], whole[1], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("way", FLOAT32, ids=str)
@pytest.mark.parametrize("seen", [0, 1], ids=["y", "state"])
def test_a_loss_may_look_at_one_result_alone(way: Way, seen: int) -> None:
    inputs = make_inputs(way.operator, 33)

    def gradients(way: Way, inputs: list[Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        return list(
            torch.autograd.grad(call(way, leaves)[seen].square().sum(), leaves, materialize_grads=True)
        )

    expected = gradients(Way(way.operator, "reference", torch.float64), [x.double() for x in inputs])
    for actual, wanted in zip(gradients(way, inputs), expected, strict=True):
        scale = float(wanted.abs().max().clamp_min(1.0))
        torch.testing.assert_close(actual.double(), wanted, rtol=0.0, atol=3e-5 * scale)


@pytest.mark.parametrize("way", FAST, ids=str)
def test_strided_inputs_are_read_as_they_are_meant(way: Way) -> None:
    inputs = make_inputs(way.operator, 20, (7, 5), way.dtype)
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in inputs]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(call(way, strided), call(way, inputs), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("forward", ["native", "chunked"])
@pytest.mark.parametrize("backward", ["native", "chunked"])
@pytest.mark.skipif(native.library() is None, reason=str(native.unavailable_reason()))
def test_what_one_implementation_keeps_another_can_read(operator: str, forward: str, backward: str) -> None:
    inputs, weights, expected = case(operator, 70, (5, 21), torch.float32)
    run_forward = getattr(torch.ops.receptance, operator)
    run_backward = getattr(torch.ops.receptance, f"{operator}_backward")
    y, state, checkpoints = run_forward(*inputs, forward, True)
    assert checkpoints.shape == (2, 2, 3, 5, 21)
    gradients = run_backward(*inputs, checkpoints, *(x.float() for x in weights), backward)
    named = {f"grad_{name}": x for name, x in zip(NAMES[operator], gradients, strict=True)}
    assert_as_expected(Way(operator, backward), {"y": y, "state_end": state, **named}, expected)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("implementation", [None, "chunked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("time", [1, 40])
def test_torch_accepts_the_operators(
    operator: str, implementation: str | None, dtype: torch.dtype, time: int
) -> None:
    inputs = [x.requires_grad_() for x in make_inputs(operator, time, (5, 3), dtype)]
    plain = [x.detach() for x in inputs]
    forward = getattr(torch.ops.receptance, operator)
    backward = getattr(torch.ops.receptance, f"{operator}_backward")
    torch.library.opcheck(forward, (*inputs, implementation, True))
    torch.library.opcheck(forward, (*plain, implementation, False))
    y, state, checkpoints = forward(*plain, implementation, True)
    torch.library.opcheck(backward, (*plain, checkpoints, y, state, implementation))
    torch.library.opcheck(backward, (*plain, checkpoints, None, state, implementation))


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_compiled_graph_gives_the_same_and_has_no_break(operator: str) -> None:
    def step(*inputs: Tensor) -> Tensor:
        y, state = OPERATORS[operator](torch.tanh(inputs[0]), *inputs[1:])
        return y.square().mean() + state.square().mean()

    inputs = [x.requires_grad_() for x in make_inputs(operator, 40)]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, actual = step(*inputs), compiled(*inputs)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), expected)
    with (
        kernels.use(**{operator: "reference"}),
        pytest.raises(KernelError, match="cannot run inside a compiled graph"),
    ):
        compiled(*inputs)


def test_a_shape_or_dtype_that_does_not_fit_is_named() -> None:
    r, k, v, w, u, state = make_inputs("wkv6", 4, (3, 5))
    with pytest.raises(ConfigError, match="with at least one token"):
        kernels.wkv6(r[:, :0], k[:, :0], v[:, :0], w[:, :0], u, state)
    with pytest.raises(ConfigError, match=r"k needs \(2, 4, 2, 3\); got \(2, 3, 2, 3\)"):
        kernels.wkv6(r, k[:, :3], v, w, u, state)
    with pytest.raises(ConfigError, match=r"state needs \(2, 2, 3, 5\); got \(2, 2, 5, 3\)"):
        kernels.wkv6(r, k, v, w, u, state.mT)
    with pytest.raises(ConfigError, match=r"w, u and the state need one dtype, .* got torch.float64"):
        kernels.wkv6(r, k, v, w.double(), u, state)
    r, w, k, v, a, b, state = make_inputs("wkv7", 4, (3, 5))
    with pytest.raises(ConfigError, match=r"state needs \(2, 2, 5, 3\); got \(2, 2, 3, 5\)"):
        kernels.wkv7(r, w, k, v, a, b, state.mT)


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_cannot_be_differentiated_says_so(operator: str) -> None:
    inputs = [x.requires_grad_() for x in make_inputs(operator, 4)]
    y, *_ = getattr(torch.ops.receptance, operator)(*inputs, None, False)
    with pytest.raises(KernelError, match="keep=False"):
        y.sum().backward()
    y, _ = OPERATORS[operator](*inputs)
    (first,) = torch.autograd.grad(y.square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(KernelError, match="only the implementation 'reference' has second derivatives"):
        first.sum().backward()
