"""RWKV-6 against a trained model, published sizes and the recipe of its trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance.models import RWKV6, RWKV6Config
from tests.models.trained import assert_reads_as_expected, filled, weights

SIZES = {
    "0.1B": (12, 768, 32, 64, 197.0),
    "0.4B": (24, 1024, 32, 64, 472.8),
    "1.6B": (24, 2048, 32, 64, 1599.9),
    "3B": (32, 2560, 32, 64, 3099.9),
    "7B": (32, 4096, 64, 128, 7635.7),
}


def test_a_trained_model_gives_its_logits_and_state(shared: Path) -> None:
    name = "rwkv-6.0-3m-dequantQ5_1"
    config = RWKV6Config(
        vocabulary_size=256, num_layers=12, hidden_size=128, feed_forward_size=448, head_size=8
    )
    # Upstream's own logits are of the model before it was quantised.
    assert_reads_as_expected(filled(RWKV6(config), weights(shared, name)), shared, name, first=0.1)


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_their_parameter_counts(size: str) -> None:
    layers, c, mix, decay, millions = SIZES[size]
    config = RWKV6Config(
        vocabulary_size=65_536, num_layers=layers, hidden_size=c, mix_rank=mix, decay_rank=decay
    )
    with torch.device("meta"):
        model = RWKV6(config)
    small = {32: 464, 64: 912}[mix]
    assert model.num_parameters == 13 * c**2 * layers + small * c * layers + 4 * c + 2 * 65_536 * c
    assert model.num_parameters / 1e6 == pytest.approx(millions, abs=0.05)


def test_initial_values_follow_the_recipe() -> None:
    model = RWKV6(RWKV6Config(vocabulary_size=96, num_layers=3, hidden_size=32, head_size=8))
    first, middle, last = model.blocks
    close = torch.testing.assert_close
    for name in ("x", "w", "k"):
        close(first.att.get_parameter(f"time_maa_{name}")[8].item(), 0.75)
    close(last.att.time_maa_v[8].item(), 1 - (0.25 ** (1 / 3) + 0.3))
    for name in ("r", "g"):
        close(first.att.get_parameter(f"time_maa_{name}")[8].item(), 0.5)
    for mu in (middle.ffn.time_maa_k, middle.ffn.time_maa_r):
        close(mu[8].item(), 1 - 0.25 ** ((2 / 3) ** 3))
    close(last.att.time_decay[16].item(), -6 + 5 * (16 / 31) ** 2.0)
    close(last.att.time_faaaa.flatten()[4].item(), 1 - 4 / 31 + 0.1)
    for name in ("time_maa_w1", "time_decay_w1"):
        assert not first.att.get_parameter(name).any()
    for name in ("time_maa_w2", "time_decay_w2"):
        values = first.att.get_parameter(name).detach()
        assert 0.009 < float(values.abs().max()) <= 0.01
        assert abs(float(values.mean())) < 5e-4
    close(first.att.gate.weight @ first.att.gate.weight.T, 0.01 * torch.eye(32), rtol=1e-4, atol=1e-6)
    for name in ("att.output", "ffn.receptance", "ffn.value"):
        assert not last.get_submodule(name).weight.any()


def test_a_mix_of_zero_sees_the_current_token_alone() -> None:
    model = RWKV6(RWKV6Config(vocabulary_size=9, num_layers=1, hidden_size=16, head_size=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "time_maa" in name:
                parameter.zero_()
    att = model.blocks[0].att
    x, both, past = torch.randn(3, 1, 3, 16)
    for mixed in att.mixes(x, both, past):
        assert torch.equal(mixed, x)
