"""Work in another process answers, reports and fails as if it were a call."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from receptance.errors import CheckpointError, ReceptanceError
from receptance.inference.fresh_process import Report, call_in_fresh_process


def where(report: Report, *, steps: int) -> int:
    for step in range(steps):
        report("step", step, steps)
    return os.getpid()


def fail(report: Report) -> None:
    raise CheckpointError("a.pth: is damaged")


def die(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ignore(stage: str, done: int, total: int) -> None:
    pass


def test_work_runs_elsewhere_and_reports_here() -> None:
    seen: list[tuple[str, int, int]] = []
    pid = call_in_fresh_process(partial(where, steps=2), lambda *progress: seen.append(progress))
    assert pid != os.getpid()
    assert seen == [("step", 0, 2), ("step", 1, 2)]


def test_an_error_arrives_as_itself() -> None:
    with pytest.raises(CheckpointError, match=r"^a\.pth: is damaged$"):
        call_in_fresh_process(fail, ignore)


def test_the_death_of_the_process_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(ReceptanceError, match=r"exit code -9: the system may have run out of memory"):
        call_in_fresh_process(die, ignore)
