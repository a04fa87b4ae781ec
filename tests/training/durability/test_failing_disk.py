"""Every call of a save fails in every way, and dies at every moment: a whole snapshot is always there."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.training.run_folder import RunFolder
from tests.training.durability import lost_power
from tests.training.durability.conftest import WriteRecipe
from tests.training.durability.forks import (
    BROKEN,
    FULL,
    INTERRUPTED,
    KILLED_AFTER,
    KILLED_BEFORE,
    SHORT,
    Forks,
)

WAYS = {
    "disk full": FULL,
    "input/output error": BROKEN,
    "interrupted call": INTERRUPTED,
    "half written": SHORT,
    "killed before": KILLED_BEFORE,
    "killed after or half-way": KILLED_AFTER,
}


class Base:
    """A run folder with a snapshot of step 3, whose run is about to save step 6."""

    def __init__(self, forks: Forks, folder: Path, recipe: Path) -> None:
        self.forks = forks
        self.folder = folder
        forks.order("prepare", recipe=recipe)
        self.before = folder.with_name("before")
        shutil.copytree(folder, self.before)

    def restore(self) -> None:
        """Put everything back as it was."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.before, self.folder)

    def check(self, folder: Path) -> int:
        """See to it that a run could go on from here, and return its step."""
        run = RunFolder(folder)
        with run.claimed():
            snapshot = run.snapshots.newest()
        assert snapshot is not None
        step = snapshot.position.step
        assert all((tensor == step).all() for tensor in snapshot.tensors.values())
        weights = checkpoints.load(run.checkpoint).model.state_dict()
        values = torch.cat([weight.flatten() for weight in weights.values()]).unique().tolist()
        assert values in ([3.0], [float(step)])
        names = [path.name for path in folder.rglob("*")]
        assert not [name for name in names if name.endswith((".tmp", ".damaged"))], names
        return step


@pytest.fixture
def base(forks: Forks, watched: Path, write_recipe: WriteRecipe) -> Iterator[Base]:
    folder = watched / "run"
    base = Base(forks, folder, write_recipe(folder, keep_last=1))
    yield base
    shutil.rmtree(folder)
    shutil.rmtree(base.before)


def check_a_save_whose_call_fails(base: Base, way: str, call: int) -> int:
    """Have one call of a save go wrong, see that a whole snapshot is there, and return its step."""
    base.restore()
    answer = base.forks.order("save", fault=WAYS[way], call=call)
    step = base.check(base.folder)
    if answer["code"]:
        assert answer["code"] == -signal.SIGKILL
        assert "killed" in way
    elif "error" in answer:
        found = re.search(
            r"step 6: .* could not be written: .*The snapshot of step (\d) is whole. Go on from it by "
            r"`receptance train --resume",
            answer["error"],
        )
        assert found, answer["error"]
        assert int(found[1]) <= step
    else:
        assert step == 6
    return step


def test_t2_whichever_call_of_a_save_fails_a_whole_snapshot_stays(
    base: Base, record_property: Callable[[str, object], None]
) -> None:
    calls = base.forks.order("save")["calls"]
    assert base.check(base.folder) == 6
    assert calls > 40
    for call in range(calls):
        check_a_save_whose_call_fails(base, list(WAYS)[call % len(WAYS)], call)
    record_property(
        "figure", f"T2 each of {calls} calls of a save in one of {len(WAYS)} ways: {calls} of {calls}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_t2_whichever_call_of_a_save_fails_in_whichever_way_a_whole_snapshot_stays(
    base: Base, way: str, record_property: Callable[[str, object], None]
) -> None:
    calls = base.forks.order("save")["calls"]
    steps = [check_a_save_whose_call_fails(base, way, call) for call in range(calls)]
    if way == "half written":
        assert set(steps) == {6}
    elif way != "interrupted call":  # of which some are made again, and the save succeeds
        assert steps == sorted(steps), "once the new one is whole it stays"
    record_property("figure", f"T2 each of {calls} calls of a save, {way}: {calls} of {calls}")


def recorded_save(base: Base) -> list[lost_power.Call]:
    """Return all that a save does to the disk."""
    record = base.folder.with_name("record")
    base.restore()
    base.forks.order("save", record=record)
    calls = lost_power.read_record(record)
    record.unlink()
    return calls


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_t2_whatever_of_a_save_is_lost_with_the_power_a_whole_snapshot_stays(
    base: Base, every: int, record_property: Callable[[str, object], None]
) -> None:
    calls = recorded_save(base)
    before = lost_power.Disk.read(base.before, base.folder)
    target = base.folder.with_name("after")
    count = 0
    for made, disk in itertools.islice(lost_power.after_power_loss(before, calls), None, None, every):
        disk.write(base.folder, target)
        step = base.check(target)
        assert step == 6 or made < len(calls)
        shutil.rmtree(target)
        count += 1
    assert count * every > 500
    record_property("figure", f"T2 loss of power: {count} states of the disk, a whole snapshot in each")


def test_t3_what_a_name_stands_for_is_on_the_disk_before_it_gets_that_name(
    base: Base, tmp_path: Path
) -> None:
    calls = recorded_save(base)
    folder = base.folder / "snapshots"
    names = [(call.what, call.path, call.other) for call in calls]
    commit = next(place for place, name in enumerate(names) if name[2] == str(folder / "step-00000006"))
    temporary = names[commit][1]
    written = {name[1] for name in names[:commit] if name[0] == "write" and name[1].startswith(temporary)}
    assert {Path(path).name for path in written} == {"state.safetensors", "manifest.json"}
    for path in (*written, temporary):
        last_write = max(
            (place for place, name in enumerate(names) if name[:2] == ("write", path)), default=0
        )
        assert ("fsync", path, "") in names[last_write:commit]
    assert ("fsync", str(base.folder / "metrics.jsonl"), "") in names[:commit]
    durable = names.index(("fsync", str(folder), ""), commit)
    removed = [place for place, name in enumerate(names) if name[1].startswith(str(folder / "step-00000003"))]
    assert removed
    assert min(removed) > durable


def test_a_full_disk_is_full_until_there_is_room_again(base: Base) -> None:
    answer = base.forks.order("save", fault=FULL, call=0)
    assert "No space left on device" in answer["error"]
    assert base.check(base.folder) == 3
    assert base.forks.order("save")["said"] == "saved"
    assert base.check(base.folder) == 6
