"""Folders of transformers: what is missing, contradictory or hostile in them is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from receptance import checkpoints
from receptance.errors import CheckpointError, ConfigError
from tests.checkpoints.files import assert_same_weights, random_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints.save(random_model(), tmp_path / "hf", format="transformers")
    return tmp_path / "hf"


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))


def split(folder: Path, **changed_map: str) -> None:
    """Turn the one file into two parts and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for part, names_in_it in parts.items():
        save_file({name: tensors[name] for name in names_in_it}, folder / part, {"format": "pt"})
    places = {name: part for part, names_in_it in parts.items() for name in names_in_it} | changed_map
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_a_model_in_parts_is_read(folder: Path) -> None:
    split(folder)
    checkpoint = checkpoints.load(folder)
    assert [path.name for path in checkpoint.files] == ["part-1.safetensors", "part-2.safetensors"]
    assert_same_weights(checkpoint.model, random_model())


def test_pickled_weights_are_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_same_weights(checkpoints.load(folder).model, random_model())


def test_tied_weights_become_two_parameters(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'head\.weight' is missing"):
        checkpoints.load(folder)
    change_config(folder, tie_word_embeddings=True)
    model = checkpoints.load(folder).model
    assert torch.equal(model.head.weight, random_model().emb.weight)
    assert model.head.weight.data_ptr() != model.get_parameter("emb.weight").data_ptr()


def test_what_the_config_leaves_out_is_read_from_the_tensors(folder: Path) -> None:
    change_config(folder, attention_hidden_size=None, intermediate_size="gone", vocab_size="gone")
    assert_same_weights(checkpoints.load(folder).model, random_model())


def test_context_length_and_tokenizer_are_kept(folder: Path, tmp_path: Path) -> None:
    change_config(folder, context_length=4096)
    (folder / "tokenizer.json").write_text("{}")
    checkpoint = checkpoints.load(folder)
    assert (checkpoint.tokenizer, checkpoint.metadata) == ("tokenizer.json", {"context_length": "4096"})
    checkpoints.save(checkpoint.model, tmp_path / "new", metadata=checkpoint.metadata, format="transformers")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["context_length"] == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 30}, "vocabulary_size = 30, but its tensors have 31"),
        ({"hidden_size": 25}, "hidden_size = 25, but its tensors have 24"),
        ({"num_hidden_layers": 4}, "num_layers = 4, but its tensors have 3"),
        ({"attention_hidden_size": 48}, "attention_size = 48, but its tensors have 24"),
        ({"intermediate_size": 95}, "feed_forward_size = 95, but its tensors have 96"),
        ({"hidden_size": "24"}, "hidden_size is '24', but it must be a finite int"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"model_type": "rwkv7"}, "model_type is 'rwkv7'"),
        ({"model_type": "gone"}, "model_type is None"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json: it is"):
        checkpoints.load(folder)


@pytest.mark.parametrize("path", ["", "model.safetensors"])
def test_a_folder_without_its_config_is_refused(folder: Path, path: str) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        checkpoints.load(folder / path)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="there are no weights"):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    "name", ["../hf/part-1.safetensors", "/etc/passwd", "..", "", "a\\b", "nul\0byte", "absent.safetensors"]
)
def test_an_index_reads_only_files_of_its_own_folder(folder: Path, name: str) -> None:
    split(folder, **{"head.weight": name})
    with pytest.raises(CheckpointError, match=r"is not (the name of a file|there)|it is not there"):
        checkpoints.load(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": {"a": 3}}])
def test_an_index_without_a_map_is_refused(folder: Path, index: dict[str, Any]) -> None:
    split(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="'weight_map' must"):
        checkpoints.load(folder)


def test_a_tensor_in_two_parts_is_refused(folder: Path) -> None:
    split(folder)
    both = load_file(folder / "part-1.safetensors") | load_file(folder / "part-2.safetensors")
    save_file(both, folder / "part-2.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="is in another part too"):
        checkpoints.load(folder)


def test_errors_name_tensors_as_the_file_does(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["rwkv.blocks.1.attention.time_mix_key"][0, 0, 5] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"'rwkv\.blocks\.1\.attention\.time_mix_key' holds inf at \[0, 0, 5\]"
    ):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"attention_size": 32}, "attention_size is 32 and hidden_size 24"),
        ({"num_layers": 1}, "num_layers is 1"),
    ],
)
def test_what_transformers_cannot_run_is_not_written(
    tmp_path: Path, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        checkpoints.save(random_model(**sizes), tmp_path / "hf", format="transformers")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_written_over(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        checkpoints.save(random_model(seed=1), folder, format="transformers")
    assert (folder / "model.safetensors").read_bytes() == before
