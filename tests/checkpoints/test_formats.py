"""The content of a file tells its format, and what is no weights at all is told by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints.writers import FormatName
from receptance.errors import CheckpointError
from tests.checkpoints.files import assert_same_weights, official, random_model


@pytest.mark.parametrize("name", ["model", "model.bin", "model.pth", "model.safetensors.txt"])
@pytest.mark.parametrize("format_name", ["receptance", "pth"])
def test_the_name_of_a_file_does_not_matter(tmp_path: Path, name: str, format_name: FormatName) -> None:
    checkpoints.save(random_model(), tmp_path / name, format=format_name)
    checkpoint = checkpoints.load(tmp_path / name)
    assert checkpoint.format == format_name
    assert_same_weights(checkpoint.model, random_model())


@pytest.mark.parametrize(("suffix", "format_name"), [(".pth", "pth"), (".safetensors", "receptance")])
def test_the_suffix_may_be_left_out(tmp_path: Path, suffix: str, format_name: FormatName) -> None:
    checkpoints.save(random_model(), tmp_path / f"rwkv-4.0{suffix}", format=format_name)
    assert checkpoints.load(tmp_path / "rwkv-4.0").path == tmp_path / f"rwkv-4.0{suffix}"
    assert checkpoints.load(str(tmp_path / "rwkv-4.0")).format == format_name


def test_a_run_folder_is_loaded_by_its_model(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "model.safetensors", tokenizer="bytes")
    checkpoint = checkpoints.load(tmp_path)
    assert (checkpoint.path, checkpoint.tokenizer) == (tmp_path / "model.safetensors", "bytes")


@pytest.mark.parametrize("part", ["", "model.safetensors"])
def test_weights_of_transformers_are_read_with_their_folder(tmp_path: Path, part: str) -> None:
    checkpoints.save(random_model(layer_norm_epsilon=1e-6), tmp_path / "hf", format="transformers")
    checkpoint = checkpoints.load(tmp_path / "hf" / part)
    assert (checkpoint.format, checkpoint.path) == ("transformers", tmp_path / "hf")
    assert checkpoint.model.config.layer_norm_epsilon == 1e-6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty .0 bytes."),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b'{"error":"Invalid credentials"}', "it is text.*download failed"),
        ("Datei nicht gefunden: größer".encode(), "it is text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
        (b"fmgg\x65\0\0\0" + bytes(100), "the tensor at byte 24 has 0 axes"),
        (b"\x80\x02}q\x00.", "bare pickle"),
        (bytes(1000), None),
        (bytes(range(256)), None),
        (b"P", None),
        (b"PK\x03\x04", None),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.bin", "a"])
def test_what_is_no_weights_is_told_by_name(
    tmp_path: Path, content: bytes, message: str | None, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        checkpoints.load(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value)


def test_torch_archives_of_old_are_refused_with_advice(tmp_path: Path) -> None:
    torch.save(official(random_model()), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="Load and save it with a newer torch"):
        checkpoints.load(tmp_path / "a.pth")


def test_an_archive_with_the_wrong_name_is_refused_with_advice(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a.safetensors", format="pth")
    with pytest.raises(CheckpointError, match="Give it that name"):
        checkpoints.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["absent", "nul\0byte", "", "a" * 200])
def test_where_nothing_is_nothing_is_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path / name)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor the config\.json"):
        checkpoints.load(tmp_path)


def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoints.load(tmp_path / "endless")


def test_a_name_that_no_path_can_have_is_refused() -> None:
    with pytest.raises(CheckpointError, match="too long"):
        checkpoints.load("x" * 5000)
