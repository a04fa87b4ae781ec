"""A manifest vouches for a folder: not one bit of it can change unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from receptance.errors import CheckpointError
from receptance.training import manifest
from receptance.training.manifest import Manifest

CONTENTS = {"a.safetensors": bytes(range(256)), "b.safetensors": b"\n" * 70}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {name: manifest.write_file(tmp_path / name, [content]) for name, content in CONTENTS.items()}
    Manifest(step=12, files=files).save(tmp_path)
    return tmp_path


def test_a_whole_folder_is_vouched_for(folder: Path) -> None:
    assert manifest.check_folder(folder).step == 12


def test_every_flip_of_a_bit_and_every_cut_of_the_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_bytes()
    step = whole.index(b"12")  # the snapshot itself says it too, and compares
    for bit in (bit for bit in range(8 * len(whole)) if bit // 8 not in (step, step + 1)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            manifest.check_folder(folder)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            manifest.check_folder(folder)


def test_every_flip_of_a_bit_of_a_file_is_refused_with_its_name(folder: Path) -> None:
    for name, whole in CONTENTS.items():
        for bit in range(0, 8 * len(whole), 5):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(damaged)
            with pytest.raises(CheckpointError, match=f"{name}: changed since it was written"):
                manifest.check_folder(folder)
        (folder / name).write_bytes(whole)


def test_a_file_cut_off_or_gone_is_named(folder: Path) -> None:
    (folder / "a.safetensors").write_bytes(CONTENTS["a.safetensors"][:-1])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: has 255 bytes, but it was written with 256"):
        manifest.check_folder(folder)
    (folder / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"a\.safetensors: missing"):
        manifest.check_folder(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b", "..", ".", ""])
def test_a_manifest_speaks_of_no_file_outside_its_folder(folder: Path, name: str) -> None:
    said = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    said["files"] = {name: said["files"]["a.safetensors"]}
    (folder / "manifest.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    (folder.parent / "secret").write_bytes(CONTENTS["a.safetensors"])
    with pytest.raises(CheckpointError, match="missing"):
        manifest.check_folder(folder)


def test_the_fingerprint_is_that_of_what_was_given_and_not_of_what_was_written(tmp_path: Path) -> None:
    file = manifest.write_file(tmp_path / "x", [b"ab", b"", memoryview(b"c")])
    assert (file.bytes, file.sha256[:8]) == (3, "ba7816bf")  # FIPS 180-2, appendix B.1
    with pytest.raises(FileExistsError):
        manifest.write_file(tmp_path / "x", [b"other"])
