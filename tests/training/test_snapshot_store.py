"""Which snapshots a run keeps, and which of them it goes on from."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from receptance.errors import TrainingError
from receptance.training.snapshot import Position, Snapshot
from receptance.training.snapshot_store import SnapshotStore, superfluous

Record = Callable[[str, object], None]


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    tensors = {"master.a": torch.randn(20, 30, generator=generator), "step.a": torch.tensor(float(step))}
    return Snapshot(
        position=Position(step=step, tokens=96 * step), model={}, data={}, recipe={}, tensors=tensors
    )


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    store = SnapshotStore(tmp_path / "snapshots")
    for step in (3, 6, 9):
        store.save(snapshot(step))
    return store


def newest_step(store: SnapshotStore) -> int:
    found = store.newest()
    assert found is not None
    assert torch.equal(found.tensors["master.a"], snapshot(found.position.step).tensors["master.a"])
    return found.position.step


def test_the_newest_is_the_one_of_the_last_step(store: SnapshotStore) -> None:
    assert store.steps() == [3, 6, 9]
    assert newest_step(store) == 9
    store.save(snapshot(123_456_789))
    assert newest_step(store) == 123_456_789


def test_a_folder_without_snapshots_has_no_newest(tmp_path: Path) -> None:
    assert SnapshotStore(tmp_path / "nowhere").newest() is None
    (tmp_path / "step-00000001.damaged").mkdir()
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-00000002").touch()
    assert SnapshotStore(tmp_path).newest() is None


@given(st.sets(st.integers(0, 200)), st.integers(1, 9), st.integers(0, 30))
def test_what_goes_is_neither_among_the_last_nor_a_multiple(steps: set[int], last: int, every: int) -> None:
    gone = set(superfluous(steps, keep_last=last, keep_every=every))
    assert gone <= steps
    for step in steps:
        is_late = len([other for other in steps if other > step]) < last
        is_multiple = bool(every) and step % every == 0
        assert (step in gone) == (not is_late and not is_multiple)


def test_pruning_removes_whole_folders(store: SnapshotStore) -> None:
    store.prune(keep_last=1, keep_every=6)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-00000006", "step-00000009"]


def test_a_damaged_one_is_set_aside_and_the_one_before_serves(
    store: SnapshotStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.path(9) / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert newest_step(store) == 6
    assert f"{path}: has " in caplog.text
    assert str(store.folder / "step-00000009.damaged") in caplog.text
    assert store.steps() == [3, 6]
    store.save(snapshot(9))
    (store.path(9) / "manifest.json").unlink()
    assert newest_step(store) == 6
    assert (store.folder / "step-00000009.damaged" / "state.safetensors").is_file()


def test_where_none_is_whole_every_one_is_named(store: SnapshotStore) -> None:
    for step in store.steps():
        (store.path(step) / "state.safetensors").unlink()
    with pytest.raises(TrainingError) as caught:
        store.newest()
    assert all(f"step-0000000{step}" in str(caught.value) for step in (3, 6, 9))


def damage(path: Path, random_numbers: random.Random) -> None:
    """Flip a bit of a file, or cut it off somewhere."""
    content = bytearray(path.read_bytes())
    place = random_numbers.randrange(len(content))
    if random_numbers.random() < 0.8:
        content[place] ^= 1 << random_numbers.randrange(8)
    else:
        del content[place:]
    path.write_bytes(content)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_t4_every_random_damage_is_refused_and_the_snapshot_before_serves(
    store: SnapshotStore, count: int, record_property: Record, caplog: pytest.LogCaptureFixture
) -> None:
    random_numbers = random.Random(count)
    whole = store.folder.with_name("whole")
    shutil.copytree(store.path(9), whole)
    for _ in range(count):
        damaged = random_numbers.choice(("state.safetensors", "state.safetensors", "manifest.json"))
        damage(store.path(9) / damaged, random_numbers)
        caplog.clear()
        assert newest_step(store) == 6
        assert "snapshot is damaged" in caplog.text
        assert "step-00000009" in caplog.text
        shutil.rmtree(store.folder / "step-00000009.damaged")
        shutil.copytree(whole, store.path(9))
    record_property("figure", f"T4 damaged snapshots: {count} of {count} refused, the one before served")
