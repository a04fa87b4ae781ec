"""The layout prepared for transformers: official names and shapes behind a prefix, and back to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from receptance import checkpoints
from receptance.checkpoints.pickled import read_tensors
from receptance.errors import CheckpointError, ConfigError
from tests.checkpoints.files import assert_same_weights
from tests.checkpoints.huggingface.folders import change_config, small_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints.save(small_model("7"), tmp_path / "native", format="transformers-native")
    return tmp_path / "native"


def test_names_shapes_and_values_are_the_official_ones_behind_a_prefix(folder: Path, tmp_path: Path) -> None:
    checkpoints.save(small_model("7"), tmp_path / "model.pth", format="pth")
    official = read_tensors(tmp_path / "model.pth")
    theirs = load_file(folder / "model.safetensors")
    unread = {f"rwkv7.blocks.0.att.v{number}" for number in range(3)}
    renamed = {name if name == "head.weight" else f"rwkv7.{name}": t for name, t in official.items()}
    assert theirs.keys() == renamed.keys() | unread
    for name, tensor in renamed.items():
        assert torch.equal(theirs[name], tensor), name
    assert [tuple(theirs[name].shape) for name in sorted(unread)] == [(1, 1, 128), (128, 32), (32, 128)]
    assert_same_weights(checkpoints.load(folder).model, small_model("7"))


def test_the_config_has_the_words_of_the_published_checkpoints(folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text()) == {
        "architectures": ["Rwkv7ForCausalLM"], "model_type": "rwkv7", "vocab_size": 53, "hidden_size": 128,
        "num_hidden_layers": 3, "num_heads": 2, "head_dim": 64, "intermediate_size": 512,
        "decay_low_rank_dim": 32, "a_low_rank_dim": 32, "v_low_rank_dim": 32, "gate_low_rank_dim": 64,
        "norm_eps": 1e-5, "norm_bias": True, "wkv_state_dtype": "float32", "use_cache": True,
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
        "dtype": "float32",
    }  # fmt: skip


def test_the_values_of_the_first_layer_that_nothing_reads_may_be_absent(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".0.att.v" not in name or "value" in name}
    assert len(kept) == len(tensors) - 3
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert_same_weights(checkpoints.load(folder).model, small_model("7"))


def test_a_single_layer_knows_the_rank_that_no_tensor_shows(tmp_path: Path) -> None:
    model = small_model("7", num_layers=1, value_rank=48)
    checkpoints.save(model, tmp_path / "native", format="transformers-native")
    assert checkpoints.load(tmp_path / "native").model.config == model.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_eps": 1e-6}, "norm_eps is 1e-06"),
        ({"norm_bias": False}, "norm_bias is False"),
        ({"use_deep_embed": True}, "use_deep_embed is True"),
        ({"embedding_layer_norm_fused": True}, "embedding_layer_norm_fused is True"),
        ({"head_dim": 32}, "head_size = 32, but its tensors have 64"),
        ({"a_low_rank_dim": 8}, "in_context_rank = 8, but its tensors have 32"),
        ({"model_type": "rwkv6"}, "the weights do not have the names"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(folder)


def test_what_the_program_cannot_compute_is_not_written(tmp_path: Path) -> None:
    for model, message in (
        (small_model("7", group_norm_epsilon=1e-5), "Rwkv7ForCausalLM computes with 0.00064"),
        (small_model("6"), r"folders are for RWKV-7 \(transformers\); nothing runs RWKV-6 from one"),
    ):
        with pytest.raises(ConfigError, match=message):
            checkpoints.save(model, tmp_path / "native", format="transformers-native")
    assert list(tmp_path.iterdir()) == []


def test_errors_name_tensors_as_the_file_does(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["rwkv7.blocks.2.att.w0"][0, 0, 7] = float("nan")
    del tensors["rwkv7.blocks.1.ffn.x_k"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'rwkv7\.blocks\.1\.ffn\.x_k' is missing"):
        checkpoints.load(folder)
    tensors["rwkv7.blocks.1.ffn.x_k"] = torch.zeros(1, 1, 128)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'rwkv7\.blocks\.2\.att\.w0' holds nan at \[0, 0, 7\]"):
        checkpoints.load(folder)
