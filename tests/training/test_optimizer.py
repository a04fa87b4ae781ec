from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from receptance.errors import ConfigError, DivergenceError, TrainingError
from receptance.models import RWKV4, RWKV4Config
from receptance.training import GroupConfig, OptimizerConfig
from receptance.training.optimizer import MasterAdamW
from tests.models.examples import example

CONFIG = OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-3, weight_decay=0.1)


def small_model(dtype: torch.dtype = torch.float32) -> RWKV4:
    torch.manual_seed(0)
    model = RWKV4(RWKV4Config(vocabulary_size=11, num_layers=2, hidden_size=8))
    return model.cast_matrices(dtype)


def give_gradients(model: nn.Module, step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator) * scale
        parameter.grad = gradient.to(parameter.dtype)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_in_float32_it_is_the_adamw_of_torch() -> None:
    ours, theirs = small_model(), small_model()
    optimizer = MasterAdamW(ours, CONFIG)
    groups = []
    for name, parameter in theirs.named_parameters():
        rate = {"time_decay": 2e-3, "time_first": 3e-3}.get(name.rpartition(".")[2], 1e-3)
        groups.append({"params": [parameter], "lr": rate, "weight_decay": 0.1 if parameter.ndim > 1 else 0.0})
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8, foreach=False, fused=False)
    for step in range(20):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.collect()
        optimizer.step(1e-3)
        reference.step()
    assert_close(values(ours), values(theirs), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masters_follow_the_formula_in_float64(dtype: torch.dtype) -> None:
    # Kingma and Ba, 2015, algorithm 1, with the decoupled decay of Loshchilov and Hutter, 2019.
    model = small_model(dtype)
    name, weight = "blocks.1.ffn.key.weight", model.blocks[1].ffn.key.weight
    expected = weight.detach().double()
    m, v = torch.zeros_like(expected), torch.zeros_like(expected)
    optimizer = MasterAdamW(model, CONFIG)
    rate = 1e-5  # smaller than the last bit of a bfloat16 weight
    for step in range(1, 51):
        give_gradients(model, step)
        g = weight.grad.double()  # type: ignore[union-attr]
        optimizer.collect()
        optimizer.step(rate)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        expected = expected * (1 - rate * 0.1)
        expected -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
    assert_close(optimizer.state()[f"master.{name}"].double(), expected, rtol=0, atol=3e-6)
    assert torch.equal(weight.detach(), optimizer.state()[f"master.{name}"].to(dtype))


def test_weight_decay_holds_for_matrices_alone() -> None:
    model = small_model()
    before = values(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    MasterAdamW(model, CONFIG).step(1e-2)
    for name, parameter in model.named_parameters():
        share = 1 - 1e-2 * 0.1 if parameter.ndim >= 2 else 1.0
        assert_close(parameter.detach(), before[name] * share, rtol=1e-6, atol=0)


def test_decays_learn_twice_and_bonuses_three_times_as_fast() -> None:
    model = small_model()
    before = values(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    no_decay = OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-3)
    MasterAdamW(model, no_decay).step(1e-3)  # the first step of Adam is as long as the learning rate
    for name, parameter in model.named_parameters():
        times = {"time_decay": 2, "time_first": 3}.get(name.rpartition(".")[2], 1)
        assert_close(
            before[name] - parameter.detach(), torch.full_like(parameter, 1e-3 * times), rtol=1e-3, atol=0
        )


@pytest.mark.parametrize("generation", ["5.2", "6", "7"])
def test_in_later_generations_only_projections_decay_and_decays_learn_fast(generation: str) -> None:
    model = example(generation, torch.float32)
    before = values(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    MasterAdamW(model, CONFIG).step(1e-2)
    for name, parameter in model.named_parameters():
        share = 1 - 1e-2 * 0.1 if parameter.ndim == 2 and name.endswith(".weight") else 1.0
        assert_close(parameter.detach(), before[name] * share, rtol=1e-6, atol=0)

    before = values(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    MasterAdamW(model, replace(CONFIG, weight_decay=0.0)).step(1e-3)
    fast = "w0" if generation == "7" else "time_decay"
    for name, parameter in model.named_parameters():
        step = torch.full_like(parameter, 2e-3 if name.endswith(f".{fast}") else 1e-3)
        assert_close(before[name] - parameter.detach(), step, rtol=2e-3, atol=0)


def test_a_group_changes_the_rate_and_the_decay_of_what_it_names_and_the_first_that_fits_counts() -> None:
    model = small_model()
    before = values(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    groups = (
        GroupConfig(parameters="blocks.0.att.*", multiplier=0.0, weight_decay=0.0),
        GroupConfig(parameters="*.att.time_decay", multiplier=5.0, weight_decay=0.2),
        GroupConfig(parameters="head.weight", multiplier=0.5),
    )
    rate = 1e-2
    MasterAdamW(model, CONFIG, groups).step(rate)
    for name, parameter in model.named_parameters():
        times, decay = 1.0, 0.1 if parameter.ndim >= 2 else 0.0
        if name.startswith("blocks.0.att."):
            times, decay = 0.0, 0.0
        elif name == "blocks.1.att.time_decay":
            times, decay = 5.0, 0.2
        elif name == "head.weight":
            times = 0.5
        expected = before[name] * (1 - rate * times * decay) - rate * times
        assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


def test_a_group_that_fits_no_parameter_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'\*\.time_decai'.*such as"):
        MasterAdamW(small_model(), CONFIG, (GroupConfig(parameters="*.time_decai"),))


def test_the_norm_is_of_all_gradients_and_clipping_scales_them() -> None:
    model = small_model()
    give_gradients(model, 0)
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]
    true_norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    optimizer = MasterAdamW(model, CONFIG)
    assert optimizer.step(1e-3, max_norm=0.5) == pytest.approx(true_norm, rel=1e-6)
    for name, gradient in gradients.items():
        mean = optimizer.state()[f"exp_avg.{name}"]
        assert_close(mean, 0.1 * gradient * (0.5 / true_norm), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("max_norm", [0.0, 1e9])
def test_short_gradients_are_not_clipped(max_norm: float) -> None:
    model = small_model()
    give_gradients(model, 0)
    gradient = model.head.weight.grad.clone()  # type: ignore[union-attr]
    optimizer = MasterAdamW(model, CONFIG)
    optimizer.step(1e-3, max_norm=max_norm)
    assert_close(optimizer.state()["exp_avg.head.weight"], 0.1 * gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_gradient_is_named_before_any_weight_changes(dtype: torch.dtype, bad: float) -> None:
    model = small_model(dtype)
    optimizer = MasterAdamW(model, CONFIG)
    give_gradients(model, 0)
    model.blocks[1].att.key.weight.grad[2, 3] = bad
    model.head.weight.grad[0, 0] = bad  # type: ignore[index]
    before = values(model)
    optimizer.collect()
    with pytest.raises(DivergenceError, match=r"head\.weight"):
        optimizer.step(1e-3, max_norm=1.0)
    assert all(torch.equal(before[name], value) for name, value in values(model).items())
    assert float(optimizer.state()["step.head.weight"]) == 0


def test_gradients_of_several_batches_are_summed_in_float32() -> None:
    model = small_model(torch.bfloat16)
    optimizer = MasterAdamW(model, CONFIG)
    for gradient in [1.0] + [2.0**-10] * 64:  # in bfloat16, 1 + 2^-10 is 1
        for parameter in model.parameters():
            # Autograd adds to what is there; vectors are float32 and keep their gradient.
            fresh = torch.full_like(parameter, gradient)
            parameter.grad = fresh if parameter.grad is None else parameter.grad + fresh
        optimizer.collect()
    optimizer.step(1e-3)
    for name, _ in model.named_parameters():
        mean = optimizer.state()[f"exp_avg.{name}"]
        assert_close(mean, torch.full_like(mean, 0.1 * (1 + 64 * 2.0**-10)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_collected_gradients_are_in_float32_and_to_change_them_changes_the_step(dtype: torch.dtype) -> None:
    model = small_model(dtype)
    optimizer = MasterAdamW(model, CONFIG)
    give_gradients(model, 0)
    expected = [parameter.grad.float().clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    optimizer.collect()
    gradients = optimizer.gradients()
    assert_close(gradients, expected, rtol=0, atol=0)
    for gradient in gradients:
        gradient.mul_(3.0)
    optimizer.step(1e-3)
    for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
        assert_close(optimizer.state()[f"exp_avg.{name}"], 0.3 * gradient, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimizer_with_a_loaded_state_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    model, other = small_model(dtype), small_model(dtype)
    optimizer, fresh = MasterAdamW(model, CONFIG), MasterAdamW(other, CONFIG)
    for step in range(3):
        give_gradients(model, step)
        optimizer.collect()
        optimizer.step(1e-2)
    fresh.load_state({name: tensor.clone() for name, tensor in optimizer.state().items()})
    assert all(torch.equal(a, b) for a, b in zip(values(model).values(), values(other).values(), strict=True))
    for one, its in ((model, optimizer), (other, fresh)):
        give_gradients(one, 9)
        its.collect()
        its.step(1e-2)
    assert all(torch.equal(optimizer.state()[name], tensor) for name, tensor in fresh.state().items())
    assert all(torch.equal(a, b) for a, b in zip(values(model).values(), values(other).values(), strict=True))


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        del state[name]

    return change


def with_shape(name: str, *shape: int) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        state[name] = torch.zeros(shape)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("exp_avg.head.weight"), r"'exp_avg\.head\.weight' is missing, .* \(11, 8\)"),
        (with_shape("master.emb.weight", 3, 8), r"'master\.emb\.weight' is \(3, 8\), .* \(11, 8\)"),
        (with_shape("master.blocks.9.x", 1), r"'master\.blocks\.9\.x' is there"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(
    change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    model = small_model()
    optimizer = MasterAdamW(model, CONFIG)
    state = {name: torch.ones_like(tensor) for name, tensor in optimizer.state().items()}
    change(state)
    before = values(model)
    with pytest.raises(TrainingError, match=message):
        optimizer.load_state(state)
    assert all(torch.equal(before[name], value) for name, value in values(model).items())
