"""Where numbers stop being finite."""

from __future__ import annotations

import math

import pytest
import torch

from receptance.models import RWKV4, RWKV4Config
from receptance.training.finite import first_not_finite, largest

TOKENS = torch.arange(12).reshape(2, 6)


def small_model() -> RWKV4:
    model = RWKV4(RWKV4Config(vocabulary_size=16, num_layers=3, hidden_size=8))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    return model


def test_the_largest_value_tells_of_any_that_is_not_finite() -> None:
    small, large = torch.tensor([1.0, -2.0]), torch.tensor([[-1e38]], dtype=torch.bfloat16)
    assert largest(small) == 2.0
    assert largest(small, large) == large.abs().float().item()
    for bad in (math.nan, math.inf, -math.inf):
        assert not largest(small, torch.tensor([0.0, bad, 1.0]), large).isfinite()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_is_named(bad: float) -> None:
    model = small_model()
    with torch.no_grad():
        model.blocks[1].att.key.weight[2, 3] = bad
    assert first_not_finite(model, TOKENS) == "the weight 'blocks.1.att.key.weight' is not finite"


def test_the_first_module_that_overflows_is_named_and_not_those_after_it() -> None:
    model = small_model()
    with torch.no_grad():  # (1e15)^2 is finite, and overflows when the next matrix multiplies it
        model.blocks[1].ffn.key.weight.fill_(1e15)
        model.blocks[1].ffn.value.weight.fill_(1e30)
    found = first_not_finite(model, TOKENS)
    assert found == "the output of 'blocks.1.ffn.value' is the first tensor that is not finite"


def test_what_is_finite_after_all_is_said() -> None:
    assert "finite throughout" in first_not_finite(small_model(), TOKENS)
