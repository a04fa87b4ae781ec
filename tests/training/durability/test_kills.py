"""Runs that are killed or told to stop at any moment end like those that never were: to the last bit."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from receptance.training.metrics import Record, read_metrics
from receptance.training.run_folder import RunFolder
from receptance.training.snapshot import load_snapshot
from tests.training.durability.conftest import SIZES, WriteRecipe
from tests.training.durability.forks import KILLED_AFTER, KILLED_BEFORE, Forks

DTYPES = {"4": "float32", "5": "bfloat16", "6": "float32", "7": "bfloat16"}
CLOCK = ("seconds", "tokens_per_second")
STEPS = 12
VALIDATE_EVERY = 5  # in the recipe of conftest

Figure = Callable[[str, object], None]


@dataclass(frozen=True)
class Outcome:
    """All that a run leaves, but for what a clock said."""

    log: list[Record]
    tensors: str  # weights and optimizer, hashed
    checkpoint: str

    @classmethod
    def of(cls, folder: Path) -> Outcome:
        log = [
            {name: value for name, value in record.items() if name not in CLOCK}
            for record in read_metrics(folder / "metrics.jsonl")
        ]
        digest = hashlib.sha256()
        snapshots = RunFolder(folder).snapshots
        for name, tensor in sorted(load_snapshot(snapshots.path(STEPS)).tensors.items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        model = hashlib.sha256((folder / "model.safetensors").read_bytes())
        return cls(log, digest.hexdigest(), model.hexdigest())


def samples_read(path: Path) -> dict[int, str]:
    """Return where each batch of samples began in the text; of those read more than once, all were equal."""
    found: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        first, _, starts = line.partition(" ")
        assert found.setdefault(int(first), starts) == starts
    return found


@dataclass
class Run:
    """A run of a generation, begun and gone on with by the same order."""

    forks: Forks
    folder: Path
    recipe: Path
    samples: Path

    def go_on(self, **what: object) -> dict[str, Any]:
        return self.forks.order("train", folder=self.folder, recipe=self.recipe, samples=self.samples, **what)

    def to_the_end(self) -> None:
        answer = self.go_on()
        assert json.loads(answer["said"]) == {"step": STEPS, "interrupted": False, "late": 0}, answer


@pytest.fixture(params=SIZES)
def runs(
    request: pytest.FixtureRequest, forks: Forks, watched: Path, write_recipe: WriteRecipe, tmp_path: Path
) -> Any:
    """A function that returns a run of one generation by its name."""
    made = []

    def make(name: str) -> Run:
        folder = watched / f"{name}-{request.param}"
        made.append(folder)
        recipe = write_recipe(folder, request.param, DTYPES[request.param])
        return Run(forks, folder, recipe, tmp_path / f"{name}.samples")

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("kills", [7, pytest.param(200, marks=pytest.mark.slow)])
def test_t1_t6_a_run_killed_anywhere_ends_like_one_that_was_not(
    runs: Callable[[str], Run], kills: int, request: pytest.FixtureRequest, record_property: Figure
) -> None:
    generation = request.node.callspec.params["runs"]
    whole = runs("whole")
    calls = whole.go_on()["calls"]
    expected, samples = Outcome.of(whole.folder), samples_read(whole.samples)
    assert sorted(samples) == list(range(0, STEPS * 6, 3))
    random_numbers = random.Random(f"{generation} {kills}")
    killed = 0
    while killed < kills:
        broken = runs(f"broken{killed}")
        while killed < kills:
            way = random_numbers.choice((KILLED_BEFORE, KILLED_AFTER))
            answer = broken.go_on(fault=way, call=random_numbers.randrange(calls))
            if answer["code"] == 0:  # the session needed fewer calls, and came to its end
                break
            assert answer["code"] == -signal.SIGKILL
            killed += 1
        broken.to_the_end()
        assert Outcome.of(broken.folder) == expected
        assert samples_read(broken.samples) == samples
        assert not list(broken.folder.rglob("*.tmp"))
    record_property(
        "figure",
        f"T1 RWKV-{generation}: {killed} of {kills} kills, log, weights and optimizer equal to the bit; "
        "T6: 0 samples repeated, 0 skipped",
    )


@pytest.mark.parametrize("stops", [2, pytest.param(13, marks=pytest.mark.slow)])
def test_t7_a_run_told_to_stop_saves_within_a_step_and_ends_like_one_that_was_not(
    runs: Callable[[str], Run], stops: int, request: pytest.FixtureRequest, record_property: Figure
) -> None:
    generation = request.node.callspec.params["runs"]
    whole = runs("whole")
    whole.to_the_end()
    expected = Outcome.of(whole.folder)
    random_numbers = random.Random(f"{generation} {stops}")
    stopped = 0
    for attempt in count():  # a run may be at its end before the signal comes
        if stopped == stops:
            break
        broken = runs(f"broken{attempt}")
        step = -1
        while stopped < stops:
            was_validated = step < 0 or _is_validated(broken.folder, step)
            number = random_numbers.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
            answer = broken.go_on(signal=number, after_seconds=random_numbers.uniform(0.05, 0.3))
            if answer["code"]:
                assert answer["code"] == -number  # before anybody listened
                continue
            said = json.loads(answer["said"])
            assert said["late"] <= 1
            if not said["interrupted"]:
                break
            # A session begins with the validation that the one before had no time for, and may end in it.
            assert said["step"] > step or not was_validated
            assert said["step"] >= step
            step = said["step"]
            assert RunFolder(broken.folder).snapshots.steps()[-1] == step
            stopped += 1
        broken.to_the_end()
        assert Outcome.of(broken.folder) == expected
    record_property(
        "figure",
        f"T7 RWKV-{generation}: {stopped} of {stops} signals saved within a step, and equal to the bit",
    )


def _is_validated(folder: Path, step: int) -> bool:
    """Say whether the loss on the text that was held back is known for this step, or is not due at it."""
    kinds = [record["kind"] for record in read_metrics(RunFolder(folder).metrics) if record["step"] == step]
    is_due = step % VALIDATE_EVERY == 0 or step == STEPS
    return "validation" in kinds or not is_due
