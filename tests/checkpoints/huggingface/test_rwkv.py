"""The names of transformers' `rwkv`, and of the programs for RWKV-5 and 6 that took them over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from receptance import checkpoints
from receptance.errors import CheckpointError, ConfigError
from receptance.models import AnyModel
from tests.checkpoints.files import assert_same_weights
from tests.checkpoints.huggingface.folders import change_config, official, small_model
from tests.models.examples import example

# The steps of the script that made the published folders, in its order.
STEPS = (
    ("emb.", "embeddings."),
    (".ln0.", ".pre_ln."),
    (".att.", ".attention."),
    (".ffn.", ".feed_forward."),
)
WORDS = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}


def renamed(name: str) -> str:
    """Return what the converter of RWKV-World-HF-Tokenizer calls an official weight."""
    if name == "head.weight":
        return name
    for old, new in STEPS:
        name = name.replace(old, new, 1)
    stem, mix, letter = name.rpartition(".time_mix_")
    return f"rwkv.{stem}{mix}{WORDS[letter]}" if mix else f"rwkv.{name}"


def published(folder: Path, model: AnyModel, **settings: Any) -> Path:
    """Write a model as those scripts do, with the config.json that lies beside them."""
    folder.mkdir()
    tensors = {
        renamed(name): tensor.reshape(1, 1, -1)
        if "_mix_" in name or ("_maa_" in name and tensor.ndim == 1)
        else tensor
        for name, tensor in official(model).items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = model.config
    content = {
        "architectures": [f"Rwkv{config.generation}ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration.Config"},
        "attention_hidden_size": config.hidden_size,
        "head_size": config.head_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-5,
        "model_type": f"rwkv{config.generation}",
        "num_hidden_layers": config.num_layers,
        "rescale_every": 6,
        "tie_word_embeddings": False,
        "vocab_size": config.vocabulary_size,
    }
    (folder / "config.json").write_text(json.dumps(content | settings))
    return folder


@pytest.mark.parametrize("generation", ["5", "6"])
def test_published_folders_of_rwkv5_and_6_are_read(tmp_path: Path, generation: str) -> None:
    model = small_model(generation)
    read_back = checkpoints.load(published(tmp_path / "hf", model)).model
    assert read_back.config == model.config
    assert_same_weights(read_back, model)


@pytest.mark.parametrize("version", ["5.0", "5.1", "5.2"])
def test_all_versions_of_rwkv5_are_read(tmp_path: Path, version: str) -> None:
    model = example(version, torch.float32)
    assert_same_weights(checkpoints.load(published(tmp_path / "hf", model)).model, model)


@pytest.mark.parametrize("name", ["rwkv-5.2-730K", "rwkv-6.0-3m-dequantQ5_1"])
def test_trained_models_keep_their_logits(tmp_path: Path, shared: Path, name: str) -> None:
    place = shared / "data" / "tiny-models"
    model = checkpoints.load(place / f"{name}.safetensors").model
    # RWKV-5 of this origin was trained with an epsilon of 1e-5: no division of the heads' outputs.
    settings = {"head_size_divisor": 1} if name.startswith("rwkv-5") else {}
    reference = np.load(place / f"{name}.ref.npz")
    tokens = torch.from_numpy(reference["tokens"]).long().unsqueeze(0)
    with torch.no_grad():
        logits, _ = checkpoints.load(published(tmp_path / "hf", model, **settings)).model(tokens)
    torch.testing.assert_close(logits[0], torch.from_numpy(reference["logits"]).float(), atol=3e-5, rtol=0)


@pytest.mark.parametrize(("divisor", "epsilon"), [(None, 64e-5), (8, 64e-5), (1, 1e-5), (16, 256e-5)])
def test_the_divisor_of_the_heads_is_the_epsilon_of_their_norm(
    tmp_path: Path, divisor: int | None, epsilon: float
) -> None:
    folder = published(tmp_path / "hf", small_model("6"), head_size_divisor=divisor)
    assert checkpoints.load(folder).model.config.group_norm_epsilon == epsilon


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"head_size": 32}, "head_size = 32, but its tensors have 64"),
        ({"model_type": "rwkv7"}, "model_type is 'rwkv7', but the weights do not have the names of"),
        ({"model_type": "rwkv"}, "its config is wrong: there is no 'attention_size'"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = published(tmp_path / "hf", small_model("5"))
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(folder)


def test_rwkv5_is_not_written_because_nothing_would_run_it(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"for RWKV-4 \(transformers\), .*; nothing runs RWKV-5 from one\. Write a \.pth"
    ):
        checkpoints.save(small_model("5"), tmp_path / "hf", format="transformers")
    assert list(tmp_path.iterdir()) == []
