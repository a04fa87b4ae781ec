from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from receptance.errors import CheckpointError, TrainingError
from receptance.training.snapshot import Position, Snapshot, load_snapshot


@pytest.fixture
def snapshot() -> Snapshot:
    return Snapshot(
        position=Position(step=3, tokens=96, seconds=0.1 + 0.2),
        model={"generation": "4", "num_layers": 2},
        data={"tokens": 1000},
        recipe={"run": {"folder": "runs/é"}},
        tensors={"master.a": torch.randn(3, 4), "step.a": torch.tensor(3.0)},
    )


def test_a_snapshot_comes_back_as_it_was(tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot.save(tmp_path / "s.safetensors")
    found = load_snapshot(tmp_path / "s.safetensors")
    assert replace(found, tensors={}) == replace(snapshot, tensors={})
    assert found.tensors.keys() == snapshot.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in snapshot.tensors.items())


def test_a_missing_snapshot_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to go on from"):
        load_snapshot(tmp_path / "s.safetensors")


def test_a_snapshot_cut_short_is_refused(tmp_path: Path, snapshot: Snapshot) -> None:
    path = tmp_path / "s.safetensors"
    snapshot.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut off"):
        load_snapshot(path)


def test_another_file_is_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(TrainingError, match="must be 'receptance training snapshot 1'"):
        load_snapshot(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "{"),
        ("model", "[]"),
        ("recipe", "NaN"),
        ("data", "[" * 100_000),
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
    metadata |= {"data": "{}", "recipe": "{}", key: value}
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(TrainingError, match="header of this snapshot is damaged"):
        load_snapshot(path)
