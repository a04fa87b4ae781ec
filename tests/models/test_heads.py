"""What RWKV-5, 6 and 7 share."""

from __future__ import annotations

import pytest
import torch

from receptance.errors import ConfigError
from receptance.models import RWKV6, RWKV5Config, RWKV6Config, RWKV7Config
from receptance.models.heads import HeadNorm


def test_a_hidden_size_that_the_heads_do_not_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_size is 100, not a multiple of head_size 64"):
        RWKV6Config(vocabulary_size=10, num_layers=1, hidden_size=100)


def test_the_feed_forward_width_follows_the_rule_of_the_generation() -> None:
    sizes = {"vocabulary_size": 10, "num_layers": 1, "hidden_size": 320}
    assert RWKV5Config(**sizes).feed_forward_size == 1120
    assert RWKV6Config(**sizes).feed_forward_size == 1120
    assert RWKV7Config(**sizes).feed_forward_size == 1280
    assert RWKV7Config(**sizes, feed_forward_size=100).feed_forward_size == 100


def test_each_head_is_normalised_on_its_own_as_if_divided_by_eight() -> None:
    config = RWKV6Config(vocabulary_size=10, num_layers=1, hidden_size=12, head_size=4)
    norm = HeadNorm(config)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, 12))
        norm.bias.copy_(torch.linspace(-1.0, 1.0, 12))
    x = 0.05 * torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    eighth = x.double() / 8
    centred = eighth - eighth.mean(-1, keepdim=True)
    expected = centred / (eighth.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = expected.flatten(-2) * norm.weight + norm.bias
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_state_is_one_matrix_a_head() -> None:
    model = RWKV6(RWKV6Config(vocabulary_size=10, num_layers=3, hidden_size=16, head_size=4))
    state = model.initial_state(2)
    assert state.wkv.shape == (3, 2, 4, 4, 4)
    assert state.time_shift.shape == state.channel_shift.shape == (3, 2, 16)
    assert not any(tensor.any() for tensor in state.tensors().values())
    assert state.num_bytes == 3 * 2 * 4 * (2 * 16 + 16 * 4)
    assert model.double().initial_state(1).wkv.dtype == torch.float64
