"""What every generation promises, checked on a small model of each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from receptance.models import RWKV4, RWKV5, RWKV6, RWKV7, RWKV4Config, RWKV5Config, RWKV6Config, RWKV7Config
from receptance.models.interface import AnyModel

from .examples import EXAMPLES, example

GENERATIONS = sorted(EXAMPLES)
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]])
CONFIG = RWKV4Config(vocabulary_size=20, num_layers=2, hidden_size=8)
PAIR = torch.tensor([[1, 2, 3], [4, 5, 6]])


def loss_of(logits: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[0, :-1], TOKENS[0, 1:])


def gradients(model: AnyModel) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("cuts", [(1,), (14,), tuple(range(1, 15)), (4, 5, 11)])
def test_any_split_gives_the_same_logits_state_and_gradients(generation: str, cuts: tuple[int, ...]) -> None:
    whole_model, split_model = example(generation), example(generation)
    whole, end = whole_model(TOKENS)
    loss_of(whole).backward()
    state, pieces = None, []
    for begin, stop in zip((0, *cuts), (*cuts, TOKENS.shape[1]), strict=True):
        logits, state = split_model(TOKENS[:, begin:stop], state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)
    assert state is not None
    torch.testing.assert_close(state.tensors(), end.tensors(), rtol=1e-10, atol=1e-10)
    loss_of(torch.cat(pieces, dim=1)).backward()
    assert gradients(whole_model).keys() == dict(whole_model.named_parameters()).keys()
    torch.testing.assert_close(gradients(split_model), gradients(whole_model), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_gradient_reaches_the_initial_state(generation: str) -> None:
    model = example(generation)
    _, state = model(TOKENS)
    start = state.map(lambda tensor: tensor.detach().requires_grad_())
    logits, _ = model(TOKENS, start)
    loss_of(logits).backward()
    for name, tensor in start.tensors().items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


@pytest.mark.parametrize("generation", GENERATIONS)
def test_rows_of_a_batch_do_not_touch_each_other_nor_their_state(generation: str) -> None:
    model = example(generation)
    _, start = model(torch.cat([TOKENS, TOKENS.roll(3)]))
    before = start.clone()
    logits, end = model(torch.cat([TOKENS, TOKENS.flip(1)]), start)
    alone, alone_end = model(TOKENS.flip(1), start.row(1))
    torch.testing.assert_close(logits[1:], alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end.row(1).tensors(), alone_end.tensors(), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(tensor, getattr(before, name)) for name, tensor in start.tensors().items())


@pytest.mark.parametrize("generation", GENERATIONS)
def test_state_is_float32_where_it_sums_and_constant_in_size(generation: str) -> None:
    model = example(generation, torch.float32).cast_matrices(torch.bfloat16)
    state = model.initial_state(2)
    _, after = model(TOKENS.repeat(2, 9), state)
    assert after.num_bytes == state.num_bytes
    for name, tensor in after.tensors().items():
        shift = name in {"time_shift", "channel_shift"}
        assert tensor.dtype == (torch.bfloat16 if shift else torch.float32)
        assert tensor.isfinite().all()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_initialisation_is_reproducible_and_every_block_starts_silent(generation: str) -> None:
    model = EXAMPLES[generation]()
    model.initialise(torch.Generator().manual_seed(7))
    first = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise(torch.Generator().manual_seed(7))
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    assert all(value.isfinite().all() for value in first.values())
    logits, _ = model(TOKENS)
    alone = model.head(model.ln_out(model.layers[0].ln0(model.emb(TOKENS))))
    torch.testing.assert_close(logits, alone, rtol=1e-6, atol=1e-6)


FRESH = {
    "4": lambda v, n: RWKV4(RWKV4Config(vocabulary_size=v, num_layers=n, hidden_size=64)),
    "5": lambda v, n: RWKV5(RWKV5Config(vocabulary_size=v, num_layers=n, hidden_size=64)),
    "6": lambda v, n: RWKV6(RWKV6Config(vocabulary_size=v, num_layers=n, hidden_size=64)),
    "7": lambda v, n: RWKV7(RWKV7Config(vocabulary_size=v, num_layers=n, hidden_size=64)),
}


@pytest.mark.parametrize("generation", FRESH)
@pytest.mark.parametrize(("vocabulary", "layers"), [(1_000, 1), (4_096, 4)])
def test_first_loss_is_ln_v_and_an_eighth(generation: str, vocabulary: int, layers: int) -> None:
    torch.manual_seed(0)
    model = FRESH[generation](vocabulary, layers)
    tokens = torch.randint(vocabulary, (64, 65))
    logits, _ = model(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(vocabulary) - 0.125) < 0.05


def test_a_state_maps_clones_and_gives_its_rows() -> None:
    _, state = RWKV4(CONFIG)(PAIR)
    doubled = state.map(lambda tensor: 2 * tensor)
    assert torch.equal(doubled.numerator, 2 * state.numerator)
    copy = state.clone()
    copy.numerator.data.zero_()
    assert state.numerator.any()
    assert torch.equal(state.row(1).denominator, state.denominator[:, 1:])
    assert list(state.tensors()) == ["time_shift", "channel_shift", "numerator", "denominator", "exponent"]


def test_a_detached_state_cuts_the_gradient_and_nothing_else() -> None:
    _, state = RWKV4(CONFIG)(PAIR)
    assert state.numerator.requires_grad
    assert not state.detach().numerator.requires_grad
    assert torch.equal(state.detach().numerator, state.numerator)


def test_casting_the_matrices_leaves_the_vectors_and_the_sums_in_float32() -> None:
    model = RWKV4(CONFIG).cast_matrices(torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if parameter.ndim == 2 else torch.float32), name
    assert model.dtype == torch.bfloat16
    logits, state = model(PAIR)
    assert logits.dtype == torch.bfloat16
    assert state.time_shift.dtype == torch.bfloat16
    assert state.numerator.dtype == torch.float32


def test_on_the_meta_device_a_model_has_sizes_and_no_memory() -> None:
    with torch.device("meta"):
        model = RWKV4(CONFIG)
    assert model.device.type == "meta"
    assert model.num_parameters == RWKV4(CONFIG).num_parameters
