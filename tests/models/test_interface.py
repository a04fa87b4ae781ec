"""What every generation has from the interface: its state's methods, its number formats, its counts."""

from __future__ import annotations

import torch

from receptance.models import RWKV4, RWKV4Config

CONFIG = RWKV4Config(vocabulary_size=20, num_layers=2, hidden_size=8)
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_a_state_maps_clones_and_gives_its_rows() -> None:
    _, state = RWKV4(CONFIG)(TOKENS)
    doubled = state.map(lambda tensor: 2 * tensor)
    assert torch.equal(doubled.numerator, 2 * state.numerator)
    copy = state.clone()
    copy.numerator.data.zero_()
    assert state.numerator.any()
    assert torch.equal(state.row(1).denominator, state.denominator[:, 1:])
    assert list(state.tensors()) == ["time_shift", "channel_shift", "numerator", "denominator", "exponent"]


def test_a_detached_state_cuts_the_gradient_and_nothing_else() -> None:
    _, state = RWKV4(CONFIG)(TOKENS)
    assert state.numerator.requires_grad
    assert not state.detach().numerator.requires_grad
    assert torch.equal(state.detach().numerator, state.numerator)


def test_casting_the_matrices_leaves_the_vectors_and_the_sums_in_float32() -> None:
    model = RWKV4(CONFIG).cast_matrices(torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if parameter.ndim == 2 else torch.float32), name
    assert model.dtype == torch.bfloat16
    logits, state = model(TOKENS)
    assert logits.dtype == torch.bfloat16
    assert state.time_shift.dtype == torch.bfloat16
    assert state.numerator.dtype == torch.float32


def test_on_the_meta_device_a_model_has_sizes_and_no_memory() -> None:
    with torch.device("meta"):
        model = RWKV4(CONFIG)
    assert model.device.type == "meta"
    assert model.num_parameters == RWKV4(CONFIG).num_parameters
