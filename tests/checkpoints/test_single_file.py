"""Our own format says everything about the model, and says so when it cannot be believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from receptance.checkpoints import single_file
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError, ConfigError
from tests.checkpoints.files import official, random_model


def write(path: Path, **metadata: str) -> Path:
    model = random_model(layer_norm_epsilon=1e-6)
    single_file.write(path, from_module(model, "world", metadata))
    return path


def rewrite(path: Path, **header: str) -> Path:
    """Write the same tensors under a header that is partly another."""
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping
    save_file(tensors, path, metadata | header)
    return path


def test_the_header_says_all_there_is_to_say(tmp_path: Path) -> None:
    with safe_open(write(tmp_path / "a", note="mine"), framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata.pop("config")) == {
        "generation": "4",
        "vocabulary_size": 31,
        "num_layers": 3,
        "hidden_size": 24,
        "attention_size": 24,
        "feed_forward_size": 96,
        "layer_norm_epsilon": 1e-6,
    }
    assert metadata == {"format": "receptance", "format_version": "1", "tokenizer": "world", "note": "mine"}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    contents = single_file.read(write(tmp_path / "a", note="mine"))
    assert (contents.format, contents.tokenizer, contents.metadata) == (
        "receptance",
        "world",
        {"note": "mine"},
    )
    assert contents.config["layer_norm_epsilon"] == 1e-6
    assert contents.weights.keys() == random_model().state_dict().keys()


def test_official_tensors_without_our_header_are_read(tmp_path: Path) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in official(random_model()).items()}
    save_file(tensors, tmp_path / "a", {"format": "pt", "note": "theirs"})
    contents = single_file.read(tmp_path / "a")
    assert (contents.format, contents.tokenizer, contents.metadata) == (
        "safetensors",
        None,
        {"note": "theirs"},
    )
    assert contents.weights.keys() == random_model().state_dict().keys()
    assert contents.name_in_file("emb.weight") == "module.emb.weight"


@pytest.mark.parametrize("key", ["format", "format_version", "config", "tokenizer", "packed"])
def test_the_users_metadata_cannot_take_our_keys(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' is taken"):
        write(tmp_path / "a", **{key: "mine"})
    assert list(tmp_path.iterdir()) == []


def test_metadata_are_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'step' is a int"):
        write(tmp_path / "a", step=3)  # type: ignore[arg-type]  # the error under test


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format_version": "3"}, "format_version is '3'.*newer"),
        ({"format_version": "2"}, "'packed' in the header is not JSON"),
        ({"format_version": "2", "packed": "[]"}, "'packed' in the header is not a JSON object"),
        ({"format_version": "2", "packed": '{"x": ["int8", [1, 1]]}'}, "there are no bytes of that name"),
        ({"format_version": "2", "packed": '{"emb.weight": ["int8", [1, 1]]}'}, "there are no bytes"),
        ({"config": "{"}, "'config' in the header is not JSON"),
        ({"config": "[" * 100_000}, "'config' in the header is not JSON"),
        ({"config": "[]"}, "not a JSON object"),
    ],
)
def test_a_header_that_cannot_be_believed_is_refused(
    tmp_path: Path, header: dict[str, str], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        single_file.read(rewrite(write(tmp_path / "a"), **header))


def test_reading_maps_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    weights = single_file.read(path).weights
    path.unlink()  # the mapping outlives the name
    assert torch.equal(weights["emb.weight"].read(), random_model().emb.weight)
