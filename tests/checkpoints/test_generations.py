"""Every RWKV is told by its names, and what cannot be built is refused by its own name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints.contents import Contents, weights
from receptance.checkpoints.generations import recognise
from receptance.checkpoints.writers import FormatName
from receptance.errors import CheckpointError, ConfigError
from receptance.models import RWKV4, AnyModel, Config, RWKV5Config, RWKV6Config, RWKV7Config
from tests.checkpoints.files import assert_same_weights, official, random_model
from tests.models.examples import EXAMPLES, example

BYTES = {"vocabulary_size": 256, "num_layers": 12}
NARROW = {"feed_forward_size": 256, "head_size": 8}


def contents(*names: str, **config: object) -> Contents:
    tensors = {name: torch.zeros(4, 4) for name in names}
    return Contents(path=Path("file"), format="pth", weights=weights(tensors), files=(), config=config)


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["model.layers.0.attn.r_k"], "RWKV-7 in the names of another program"),
        (
            ["model.layers.0.self_attn.time_maa_x", "model.layers.0.mlp.gate_proj.weight"],
            "RWKV6-Qwen2, ARWKV",
        ),
        (["blocks.0.att.r_k", "blocks.0.ffn.s_emb.weight"], "RWKV-7a"),
        (["blocks.0.att.r_k", "blocks.0.ffn.s_emb.weight", "blocks.0.qkv.q_emb.weight"], "RWKV-7b"),
        (["blocks.0.att.r_k", "blocks.0.ffn.enn.weight"], 'RWKV-8 "Heron"'),
        (["blocks.0.att.r_k", "blocks.0.rosa.q.weight"], "RWKV-8 with ROSA"),
        (["blocks.0.att.time_maa_rkvw_w1", "blocks.0.att.time_maa_x"], "RWKV-6b or 6c"),
        (["blocks.0.att.time_maa_x", "blocks.0.att.gate_w1"], "RWKV-6a"),
        (["blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B"], "LoRA adapter"),
        (["blocks.0.att.time_state"], "tuned initial state"),
        (["blocks.0.att.time_decay", "head_q.weight", "head_k.weight", "copy_mask"], "head-QK"),
        (["blocks.0.ffnPre.key.weight", "blocks.1.att.time_decay"], "feed-forward first layer"),
        (["blocks.0.att.time_decay", "blocks.4.tiny_ln.weight"], "RWKV-4a"),
        (["blocks.0.att.time_decay", "blocks.0.att.qq.weight", "blocks.0.att.time_mix_qq"], "RWKV-4b"),
        (["blocks.0.att.time_decay", "pos_emb_x"], "position embeddings"),
        (["transformer.h.0.attn.c_attn.weight"], "no RWKV model"),
        ([], "no RWKV model"),
    ],
)
def test_what_cannot_be_built_is_refused_by_its_name(names: list[str], title: str) -> None:
    with pytest.raises(CheckpointError) as refusal:
        recognise(contents("emb.weight", *names) if names else contents())
    assert title in str(refusal.value)


def test_rwkv4_is_recognised() -> None:
    assert recognise(contents(*official(random_model()))).model is RWKV4


def test_a_header_that_claims_another_generation_is_refused() -> None:
    with pytest.raises(CheckpointError, match="generation '7', but the tensors are RWKV-4"):
        recognise(contents("blocks.0.att.time_decay", generation="7"))


@pytest.mark.parametrize("generation", sorted(EXAMPLES))
def test_every_generation_is_recognised_with_all_of_its_sizes(generation: str) -> None:
    model = example(generation, torch.float32)
    found = recognise(contents_of(model))
    assert found.config is type(model.config)
    assert found.config(**found.sizes(contents_of(model))) == model.config


def contents_of(model: AnyModel) -> Contents:
    return Contents(path=Path("file"), format="pth", weights=weights(model.state_dict()), files=())


@pytest.mark.parametrize(
    ("name", "config"),
    [
        # rwkv.cpp calls the first one 5.1; it has no gate.
        ("rwkv-5.1-730K", RWKV5Config(**BYTES, hidden_size=64, **NARROW, version="5.0")),
        ("rwkv-5.2-730K", RWKV5Config(**BYTES, hidden_size=64, **NARROW, version="5.2")),
        ("rwkv-6.0-3m-dequantQ5_1", RWKV6Config(**BYTES, hidden_size=128, head_size=8)),
        ("rwkv-7.0-834K", RWKV7Config(**BYTES, hidden_size=64)),
    ],
)
def test_trained_models_have_the_sizes_of_their_tensors(shared: Path, name: str, config: Config) -> None:
    path = shared / "data" / "tiny-models" / f"{name}.safetensors"
    assert checkpoints.load(path).model.config == config
    overridden = checkpoints.load(path, group_norm_epsilon=1e-5).model.config
    assert overridden == replace(config, group_norm_epsilon=1e-5)


@pytest.mark.parametrize(
    "name", ["251016_rosa_1bit_run", "251105_reverse_L2", "260123_reverse_L2_only_rwkv7"]
)
def test_the_authors_experiments_are_refused(shared: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="RWKV-8 with ROSA"):
        checkpoints.load(shared / "data" / "checkpoints" / name)


@pytest.mark.parametrize("generation", sorted(EXAMPLES))
@pytest.mark.parametrize("format_name", ["receptance", "pth"])
def test_every_generation_comes_back_from_every_format(
    tmp_path: Path, generation: str, format_name: FormatName
) -> None:
    model = example(generation, torch.float32)
    checkpoints.save(model, tmp_path / "model", format=format_name)
    loaded = checkpoints.load(tmp_path / "model").model
    assert loaded.config == model.config
    assert_same_weights(loaded, model)


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, path)
    return path


def test_what_the_first_layer_of_rwkv7_has_and_never_uses_is_dropped(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    tensors = dict(model.state_dict())
    tensors |= {f"blocks.0.att.v{i}": tensors[f"blocks.1.att.v{i}"] for i in range(3)}
    loaded = checkpoints.load(written(tmp_path / "model.pth", tensors)).model
    assert_same_weights(loaded, model)
    tensors |= {"blocks.0.att.v3": tensors["blocks.1.att.v0"]}
    with pytest.raises(CheckpointError, match=r"'blocks\.0\.att\.v3' is no tensor of RWKV7"):
        checkpoints.load(written(tmp_path / "other.pth", tensors))


def test_a_version_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    checkpoints.save(example("5.2"), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"version is '5\.3', but it must be one of 5\.0, 5\.1, 5\.2"):
        checkpoints.load(tmp_path / "model.safetensors", version="5.3")
    with pytest.raises(ConfigError, match="version is 5, but"):
        checkpoints.load(tmp_path / "model.safetensors", version=5)
