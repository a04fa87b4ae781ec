"""A process that has everything imported, and forks another for each thing that is to go wrong.

It reads an order a line, as JSON (see `forks.Forks`), and answers each with a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401 - the picture of a run imports both late
import torch

from receptance.data.windows import Windows
from receptance.errors import ReceptanceError
from receptance.training import Progress, load_config, resume_config, stop_on_signals, train
from receptance.training.metrics import MetricsLog
from receptance.training.run_folder import RunFolder
from receptance.training.snapshot import Position
from receptance.training.trainer import Trainer

INTERPOSER = ctypes.CDLL(None)

Order = Mapping[str, Any]


def main() -> None:
    """Obey until the input ends."""
    torch.set_num_threads(1)
    INTERPOSER.interposer_watch(sys.argv[1].encode())
    saving: Saving | None = None
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, object] = {}
        if order["do"] == "prepare":
            saving = Saving(Path(order["recipe"]))
        elif order["do"] == "save":
            assert saving is not None
            answer = in_fork(order, saving.save)
        else:
            answer = in_fork(order, go_on)
        print(json.dumps(answer), flush=True)


def arm(order: Order) -> None:
    """Choose the call from now on that goes wrong, and where the calls are recorded."""
    recorder = os.open(order["record"], os.O_CREAT | os.O_WRONLY) if "record" in order else -1
    INTERPOSER.interposer_arm(order.get("fault", 0), order.get("call", -1), recorder)


def in_fork(order: Order, work: Callable[[Order], str]) -> dict[str, object]:
    """Do something in a fork; return its exit code, what it said and how many calls were counted."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        answer: dict[str, object] = {}
        try:
            answer["said"] = work(order)
        except ReceptanceError as error:
            answer["error"] = str(error)
        except BaseException:
            answer["unexpected"] = traceback.format_exc()
        finally:
            answer["calls"] = INTERPOSER.interposer_calls()
            INTERPOSER.interposer_arm(0, -1, -1)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    if "signal" in order:
        time.sleep(order["after_seconds"])
        with suppress(ProcessLookupError):
            os.kill(child, order["signal"])
    with os.fdopen(reader, "rb") as pipe:
        answer_text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, **(json.loads(answer_text) if answer_text else {})}


class Saving:
    """A run with a snapshot of step 3 that is about to save step 6, and then to remove the former."""

    def __init__(self, recipe: Path) -> None:
        self.trainer = _trainer_of(recipe)
        with MetricsLog(self.trainer.folder.metrics) as log:
            self._be_at(3)
            self.trainer._save(log)
        self._be_at(6)

    def save(self, order: Order) -> str:
        """Save step 6."""
        with MetricsLog(self.trainer.folder.metrics) as log:
            arm(order)
            self.trainer._save(log)
        return "saved"

    def _be_at(self, step: int) -> None:
        with torch.no_grad():
            for tensor in self.trainer.optimizer.state().values():
                tensor.fill_(step)
            for weight in self.trainer.model.parameters():
                weight.fill_(step)
        self.trainer.position = Position(step=step)


class CaughtError(Exception):
    """Carries a trainer out of `train`."""


def _trainer_of(recipe: Path) -> Trainer:
    """Return the trainer that `train` would run."""

    def catch(self: Trainer, *arguments: object) -> None:
        raise CaughtError(self)

    run, Trainer.run = Trainer.run, catch  # type: ignore[method-assign,assignment]
    try:
        train(load_config(recipe))
    except CaughtError as caught:
        return caught.args[0]  # type: ignore[no-any-return]
    finally:
        Trainer.run = run  # type: ignore[method-assign]
    raise AssertionError("the trainer never ran")


def go_on(order: Order) -> str:
    """Begin a run or go on with it; note the samples of each step; say how it ended."""
    folder = RunFolder(Path(order["folder"]))
    resume = folder.config.exists()
    config = resume_config(folder.path) if resume else load_config(order["recipe"])
    config = replace(config, run=replace(config.run, folder=folder.path))
    notes = os.open(order["samples"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    samples = Windows.samples

    def noted(self: Windows, first: int, count: int) -> Any:
        starts = self.order.starts(torch.arange(first, first + count).numpy())
        os.write(notes, f"{first} {starts.tolist()}\n".encode())
        return samples(self, first, count)

    Windows.samples = noted  # type: ignore[method-assign]
    steps, asked_at = [0], []
    arm(order)

    def look(progress: Progress) -> None:
        steps.append(progress.step)

    with stop_on_signals(lambda: asked_at.append(steps[-1])) as stop:
        result = train(config, resume=resume, report=look, stop=stop)
    late = result.step - asked_at[0] if asked_at and asked_at[0] else 0
    return json.dumps({"step": result.step, "interrupted": result.interrupted, "late": late})


if __name__ == "__main__":
    main()
