"""RWKV-5 against trained models, published sizes and the recipe of its trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from receptance.models import RWKV5, RWKV5Config
from tests.models.trained import assert_reads_as_expected, filled, weights

SIZES = {
    "0.1B": (12, 768, 192.8),
    "0.4B": (24, 1024, 461.7),
    "1.6B": (24, 2048, 1577.8),
    "3B": (32, 2560, 3063.0),
    "7B": (32, 4096, 7518.0),
}
TRAINED: list[tuple[str, Literal["5.0", "5.2"]]] = [("rwkv-5.1-730K", "5.0"), ("rwkv-5.2-730K", "5.2")]


@pytest.mark.parametrize(("name", "version"), TRAINED)
def test_trained_models_give_their_logits_and_state(
    shared: Path, name: str, version: Literal["5.0", "5.2"]
) -> None:
    sizes = {"vocabulary_size": 256, "num_layers": 12, "hidden_size": 64, "feed_forward_size": 256}
    tensors = weights(shared, name)
    model = RWKV5(RWKV5Config(**sizes, head_size=8, version=version, group_norm_epsilon=1e-5))
    assert_reads_as_expected(filled(model, tensors), shared, name)
    official = RWKV5(RWKV5Config(**sizes, head_size=8, version=version))
    assert_reads_as_expected(filled(official, tensors), shared, name, logits="logits_gn64e5", first=None)


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_their_parameter_counts(size: str) -> None:
    layers, c, millions = SIZES[size]
    with torch.device("meta"):
        model = RWKV5(RWKV5Config(vocabulary_size=65_536, num_layers=layers, hidden_size=c))
    assert model.num_parameters == 13 * c**2 * layers + 14 * c * layers + 4 * c + 2 * 65_536 * c
    assert model.num_parameters / 1e6 == pytest.approx(millions, abs=0.05)


def test_initial_values_follow_the_recipe() -> None:
    model = RWKV5(RWKV5Config(vocabulary_size=96, num_layers=3, hidden_size=32, head_size=8))
    first, last = model.blocks[0], model.blocks[2]
    close = torch.testing.assert_close
    close(first.att.time_mix_k[8].item(), 0.25)
    close(first.att.time_mix_r[8].item(), 0.5)
    close(last.att.time_mix_v[8].item(), 0.25 ** (1 / 3) + 0.3)
    assert torch.equal(last.att.time_mix_g, last.att.time_mix_r)
    close(first.att.time_decay.flatten()[[0, 16, -1]], torch.tensor([-6, -6 + 5 * (16 / 31) ** 0.7, -1]))
    close(last.att.time_decay[2, 0].item(), -6 + 5 * (16 / 31) ** 2.0)
    close(first.att.time_faaaa.flatten()[:3], torch.tensor([0.0, 0.1, -0.1]))
    close(last.att.time_faaaa.flatten()[4].item(), 1 - 4 / 31 + 0.1)
    close(first.att.ln_x.weight, torch.full((32,), (1 / 3) ** 0.7))
    close(model.blocks[1].ffn.time_mix_k[8].item(), 0.25 ** (2 / 3))
    eye = torch.eye(32)
    for name, gain in (("receptance", 1.0), ("key", 0.1), ("value", 1.0), ("gate", 0.1)):
        weight = first.att.get_parameter(f"{name}.weight")
        close(weight @ weight.T, gain**2 * eye, rtol=1e-4, atol=1e-5)
    close(first.ffn.key.weight.T @ first.ffn.key.weight, eye, rtol=1e-4, atol=1e-5)
    close(model.head.weight.T @ model.head.weight, 0.25 * 3 * eye, rtol=1e-4, atol=1e-5)
    for name in ("att.output", "ffn.receptance", "ffn.value"):
        assert not last.get_submodule(name).weight.any()


def test_the_older_versions_have_one_decay_a_head_and_a_logarithmic_bonus() -> None:
    sizes = {"vocabulary_size": 10, "num_layers": 1, "hidden_size": 16, "head_size": 8}
    old, gated = RWKV5(RWKV5Config(**sizes, version="5.0")), RWKV5(RWKV5Config(**sizes, version="5.1"))
    new = RWKV5(RWKV5Config(**sizes, version="5.2"))
    extra = {"blocks.0.att.gate.weight", "blocks.0.att.time_mix_g"}
    assert set(gated.state_dict()) - set(old.state_dict()) == extra
    wide = dict(gated.state_dict())
    for name, spread in (("time_decay", lambda x: x), ("time_first", torch.exp)):
        per_head = torch.tensor([-0.5, 0.3])
        gated.get_parameter(f"blocks.0.att.{name}").data = per_head
        wide[f"blocks.0.att.{name}"] = spread(per_head)[:, None].expand(2, 8)
    wide["blocks.0.att.time_faaaa"] = wide.pop("blocks.0.att.time_first")
    new.load_state_dict(wide)
    for model in (gated, new):
        model.blocks[0].att.output.weight.data = torch.eye(16)
    tokens = torch.arange(10)[None]
    torch.testing.assert_close(gated(tokens)[0], new(tokens)[0])
