"""RWKV-4 against closed-form values, published sizes and itself cut into pieces."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from receptance.models import RWKV4, RWKV4Config, RWKV4State

PUBLISHED = {
    "169M": (12, 768, 169_342_464),
    "430M": (24, 1024, 430_397_440),
    "1.5B": (24, 2048, 1_515_106_304),
    "3B": (32, 2560, 2_984_627_200),
    "7B": (32, 4096, 7_392_649_216),
    "14B": (40, 5120, 14_148_597_760),
}


def closed_form_model(dtype: torch.dtype = torch.float64) -> RWKV4:
    """A model whose every value is a sine of its place: no file and no random numbers."""
    model = RWKV4(RWKV4Config(vocabulary_size=11, num_layers=3, hidden_size=8)).double()
    for number, (name, parameter) in enumerate(model.named_parameters()):
        place = torch.arange(parameter.numel(), dtype=torch.float64)
        s = torch.sin(1.7 * number + 0.9 * place + 0.011 * place**2)
        if "time_mix" in name:
            values = 0.5 + 0.5 * s
        elif "time_decay" in name:
            values = -1 + 2 * s
        elif "time_first" in name or name == "emb.weight":
            values = s
        elif ".ln" in name or name.startswith("ln"):
            values = 1 + 0.2 * s if name.endswith("weight") else 0.1 * s
        else:
            values = 0.8 * s
        parameter.data = values.reshape(parameter.shape)
    return model.to(dtype)


TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5]])
FIRST_LOGITS = [
    1.501668654, -2.095683267, 1.615988574, 0.304132787, -0.558631814, -2.069756860,
    3.317921280, 1.019485289, -0.725411238, 2.477549351, -0.562784754,
]  # fmt: skip
LAST_LOGITS = [
    -1.451834208, -0.961038148, 0.218901103, -0.728208722, -1.396006500, 3.084742250,
    -3.058287684, 1.717064991, 1.195521563, -0.890661672, 1.485881800,
]  # fmt: skip
STATE_SUMS = {
    "time_shift": [0.13192065, 0.72673555, 0.42800871],
    "numerator": [-8.30052893, 1.0138875, -9.24156909],
    "denominator": [20.6320951, 22.88781874, 19.49059203],
    "exponent": [7.98521872, 6.65483269, 7.7193941],
    "channel_shift": [-0.07859597, -0.70399113, -0.58336694],
}
GRADIENT_NORMS = {
    "blocks.0.att.time_decay": 0.109976967,
    "blocks.0.att.time_first": 0.0664411999,
    "blocks.1.att.time_mix_k": 0.0347506987,
    "emb.weight": 0.975180716,
    "head.weight": 1.317408479,
    "blocks.2.att.key.weight": 0.0559913162,
}
GRADIENT_SUMS = {"blocks.0.att.time_decay": 0.0377441860, "blocks.0.att.time_first": -0.0285584553}


def next_token_loss(logits: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[0, :-1], TOKENS[0, 1:])


def close(actual: Tensor, expected: object, tolerance: float) -> None:
    torch.testing.assert_close(
        actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_closed_form_logits_and_state(dtype: torch.dtype, tolerance: float) -> None:
    model = closed_form_model(dtype)
    assert model.num_parameters == 2_968
    logits, state = model(TOKENS)
    close(logits[0, 0], FIRST_LOGITS, tolerance)
    close(logits[0, 8], LAST_LOGITS, tolerance)
    close(logits.abs().sum(), 157.0101831072, tolerance)
    for name, tensor in state.tensors().items():
        close(tensor.sum(dim=(1, 2)), STATE_SUMS[name], max(tolerance, 2e-7))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_closed_form_loss_and_gradients(dtype: torch.dtype, tolerance: float) -> None:
    model = closed_form_model(dtype)
    loss = next_token_loss(model(TOKENS)[0])
    close(loss, 4.9212090347, tolerance)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, norm in GRADIENT_NORMS.items():
        gradient = gradients[name]
        assert gradient is not None
        close(gradient.norm(), norm, tolerance)
    for name, total in GRADIENT_SUMS.items():
        gradient = gradients[name]
        assert gradient is not None
        close(gradient.sum(), total, tolerance)


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_their_parameter_counts(size: str) -> None:
    layers, channels, count = PUBLISHED[size]
    with torch.device("meta"):
        model = RWKV4(RWKV4Config(vocabulary_size=50_277, num_layers=layers, hidden_size=channels))
    assert model.num_parameters == count


@pytest.mark.parametrize("vocabulary", [1_000, 4_096])
@pytest.mark.parametrize("layers", [1, 2, 6])
def test_first_loss_is_ln_v_and_an_eighth(vocabulary: int, layers: int) -> None:
    torch.manual_seed(0)
    model = RWKV4(RWKV4Config(vocabulary_size=vocabulary, num_layers=layers, hidden_size=64))
    tokens = torch.randint(vocabulary, (8, 65))
    logits, _ = model(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(vocabulary) - 0.125) < 0.05


def test_initial_values_follow_the_recipe() -> None:
    model = RWKV4(RWKV4Config(vocabulary_size=96, num_layers=3, hidden_size=32))
    first, last = model.blocks[0], model.blocks[2]
    close(first.att.time_decay[[0, -1]], [-5.0, 3.0], 1e-6)
    close(last.att.time_decay[16], -5 + 8 * (16 / 31) ** 2.0, 1e-5)
    close(first.att.time_first[:3], [math.log(0.3), math.log(0.3) + 0.5, math.log(0.3) - 0.5], 1e-6)
    close(first.att.time_mix_k[8], 0.25, 1e-6)
    close(first.att.time_mix_r[8], 0.5, 1e-6)
    close(last.att.time_mix_v[8], 0.25 ** (1 / 3) + 0.3, 1e-6)
    assert last.att.time_mix_v.max() > 1
    close(last.ffn.time_mix_k[0], 0.0, 1e-9)
    close(model.head.weight.T @ model.head.weight, 0.75 * torch.eye(32), 1e-5)
    close(first.ffn.key.weight.T @ first.ffn.key.weight, 4.0 * torch.eye(32), 1e-5)
    close(first.att.value.weight @ first.att.value.weight.T, torch.eye(32), 1e-5)
    assert model.emb.weight.abs().max() <= 1e-4
    for name in ("att.key", "att.receptance", "att.output", "ffn.receptance", "ffn.value"):
        assert not last.get_submodule(name).weight.any()


def test_initialisation_is_reproducible_from_its_generator() -> None:
    model = RWKV4(RWKV4Config(vocabulary_size=50, num_layers=2, hidden_size=16))
    model.initialise(torch.Generator().manual_seed(7))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise(torch.Generator().manual_seed(7))
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("cuts", [(1,), (8,), (1, 2, 3, 4, 5, 6, 7, 8), (4, 5)])
def test_any_split_gives_the_same_logits_state_and_gradients(cuts: tuple[int, ...]) -> None:
    whole_model, split_model = closed_form_model(), closed_form_model()
    whole, end = whole_model(TOKENS)
    next_token_loss(whole).backward()

    state: RWKV4State | None = None
    pieces = []
    for begin, stop in zip((0, *cuts), (*cuts, TOKENS.shape[1]), strict=True):
        logits, state = split_model(TOKENS[:, begin:stop], state)
        pieces.append(logits)
    assert state is not None
    close(torch.cat(pieces, dim=1), whole, 1e-12)
    for name, tensor in state.tensors().items():
        close(tensor, getattr(end, name), 1e-12)
    next_token_loss(torch.cat(pieces, dim=1)).backward()
    for (name, one), two in zip(whole_model.named_parameters(), split_model.parameters(), strict=True):
        assert one.grad is not None, name
        close(two.grad, one.grad, 1e-11)


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    model = closed_form_model()
    batch = torch.cat([TOKENS, TOKENS.flip(1)])
    logits, state = model(batch)
    alone, alone_state = model(TOKENS.flip(1))
    close(logits[1:], alone, 1e-12)
    close(state.row(1).numerator, alone_state.numerator, 1e-12)


def test_gradient_reaches_the_initial_state() -> None:
    model = closed_form_model()
    _, state = model(TOKENS)
    start = state.map(lambda tensor: tensor.detach().requires_grad_())
    logits, end = model(TOKENS, start)
    (logits.square().mean() + end.numerator.square().mean()).backward()
    for name, tensor in start.tensors().items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


def test_state_is_never_changed_in_place() -> None:
    model = closed_form_model()
    _, state = model(TOKENS)
    before = state.clone()
    model(TOKENS, state)
    assert all(torch.equal(tensor, getattr(before, name)) for name, tensor in state.tensors().items())


def test_state_size_is_constant_in_length() -> None:
    model = closed_form_model(torch.float32)
    assert model.initial_state(1).num_bytes == 5 * 3 * 8 * 4
    assert model(TOKENS.repeat(1, 20))[1].num_bytes == 5 * 3 * 8 * 4


def test_attention_may_be_wider_than_the_channels() -> None:
    config = RWKV4Config(
        vocabulary_size=20, num_layers=2, hidden_size=8, attention_size=16, feed_forward_size=24
    )
    model = RWKV4(config)
    count = 2 * 20 * 8 + 2 * (4 * 16 * 8 + 2 * 8 * 24 + 8 * 8 + 2 * 16 + 9 * 8) + 4 * 8
    assert model.num_parameters == count
    logits, state = model(torch.zeros(2, 3, dtype=torch.long))
    assert logits.shape == (2, 3, 20)
    assert state.numerator.shape == (2, 2, 16)


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers is 0"):
        RWKV4Config(vocabulary_size=10, num_layers=0, hidden_size=8)
