from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from receptance.errors import CheckpointError, TrainingError
from receptance.training.guard import Memory
from receptance.training.manifest import Manifest, check_folder
from receptance.training.snapshot import Position, Snapshot, load_snapshot, load_state


@pytest.fixture
def snapshot() -> Snapshot:
    return Snapshot(
        position=Position(step=3, tokens=96, seconds=0.1 + 0.2),
        model={"generation": "4", "num_layers": 2},
        data={"tokens": 1000},
        recipe={"run": {"folder": "runs/é"}},
        tensors={"master.a": torch.randn(3, 4), "step.a": torch.tensor(3.0)},
        guard=Memory(skipped=1, losses=3, mean=0.1 + 0.2, variance=1e-300),
    )


def test_a_snapshot_comes_back_as_it_was(tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot.save(tmp_path / "s")
    found = load_snapshot(tmp_path / "s")
    assert replace(found, tensors={}) == replace(snapshot, tensors={})
    assert found.tensors.keys() == snapshot.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in snapshot.tensors.items())


def test_other_programs_can_read_the_tensors_and_check_the_sums(tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot.save(tmp_path / "s")
    tensors = load_file(tmp_path / "s" / "state.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in snapshot.tensors.items())
    said = json.loads((tmp_path / "s" / "manifest.json").read_text(encoding="utf-8"))["files"]
    content = (tmp_path / "s" / "state.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert said == {"state.safetensors": {"bytes": len(content), "sha256": digest}}


def test_a_folder_without_a_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"manifest\.json: does not exist"):
        load_snapshot(tmp_path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_written(tmp_path: Path, snapshot: Snapshot, bad: float) -> None:
    snapshot.tensors["master.a"][1, 2] = bad
    with pytest.raises(CheckpointError, match=r"'master\.a' holds (nan|inf|-inf) at \[1, 2\]"):
        snapshot.save(tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_a_snapshot_under_the_manifest_of_another_step_is_refused(tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot.save(tmp_path / "s")
    manifest = check_folder(tmp_path / "s")
    replace(manifest, step=4).save(tmp_path / "s")
    with pytest.raises(CheckpointError, match="the manifest says step 4"):
        load_snapshot(tmp_path / "s")


def test_a_disk_that_gives_back_other_bytes_is_noticed_before_the_snapshot_has_its_name(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_lose_a_bit(self: Manifest, folder: Path) -> None:
        (folder / "manifest.json").write_bytes(self._text())
        with (folder / "state.safetensors").open("r+b") as file:
            file.seek(-3, 2)
            byte = file.read(1)[0]
            file.seek(-3, 2)
            file.write(bytes([byte ^ 1]))

    monkeypatch.setattr(Manifest, "save", write_and_lose_a_bit)
    with pytest.raises(CheckpointError, match="changed since it was written"):
        snapshot.save(tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_another_file_is_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(TrainingError, match="must be 'receptance training snapshot 1'"):
        load_state(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "{"),
        ("model", "[]"),
        ("recipe", "NaN"),
        ("data", "[" * 100_000),
        ("guard", '{"skipped": -1}'),
        ("guard", '{"mean": NaN}'),
        ("position", "3"),
        ("position", '{"step": "8"}'),
        ("position", '{"step": -1}'),
        ("position", '{"tokens": 1.5}'),
        ("position", '{"seconds": NaN}'),
        ("position", '{"seconds": -1}'),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "s.safetensors"
    metadata = {"format": "receptance training snapshot 1", "position": "{}", "model": "{}"}
    metadata |= {"data": "{}", "recipe": "{}", "guard": "{}", key: value}
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(TrainingError, match="header of this snapshot is damaged"):
        load_state(path)
