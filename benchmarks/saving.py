"""How long training stands still while it saves: `python -m benchmarks.saving [--output FILE]`.

A run with the defaults, but for its sizes, and how much longer than the others those steps took after which
it saved: the snapshot written, synced and read back, and the checkpoint. The run lies beside the report or in
the working folder, so that the disk is the one on which runs are kept.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.models import SHAPES
from benchmarks.report import add_numbers, add_output, line, publish, setting
from receptance.data import prepare
from receptance.training import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Progress,
    RunConfig,
    TrainingConfig,
    train,
)
from receptance.training.run_folder import RunFolder

WARM_UP_STEPS = 3
VOCABULARIES = {"4": 50_277, "7": 65_536}


def config(name: str, folder: Path, arguments: argparse.Namespace) -> Config:
    layers, channels = SHAPES[name]
    generation = name.removeprefix("RWKV-")[0]
    return Config(
        run=RunConfig(folder=folder / "run"),
        model=ModelConfig(
            generation=generation,  # type: ignore[arg-type]  # a name of SHAPES begins with one
            num_layers=layers,
            hidden_size=channels,
            vocabulary_size=VOCABULARIES[generation],
        ),
        data=DataConfig(folder=folder / "data", context=arguments.context),
        training=TrainingConfig(batch_size=arguments.batch, max_minutes=arguments.minutes),
        optimizer=OptimizerConfig(learning_rate=1e-4, final_learning_rate=1e-4),
    )


def row(name: str, folder: Path, arguments: argparse.Namespace) -> str:
    """Train for the given minutes, and return the line of the table."""
    text = "".join(f"{number} times {number} is {number * number}.\n" for number in range(20_000))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    prepare(folder / "text.txt", folder / "data", tokenizer="bytes", validation_fraction=0.0)
    run = RunFolder(folder / "run")
    reported: list[float] = []
    saved_after: set[int] = set()  # steps

    def look(_: Progress) -> None:
        reported.append(time.perf_counter())
        snapshots = run.snapshots.steps()
        if snapshots:
            saved_after.add(snapshots[-1])

    train(config(name, folder, arguments), report=look)
    taken = {step: later - earlier for step, (earlier, later) in enumerate(pairwise(reported), start=1)}
    taken = {step: seconds for step, seconds in taken.items() if step > WARM_UP_STEPS}
    usual = statistics.median(seconds for step, seconds in taken.items() if step not in saved_after)
    saves = [seconds - usual for step, seconds in taken.items() if step in saved_after]
    size = run.snapshots.path(run.snapshots.steps()[-1]) / "state.safetensors"
    return line(
        name,
        f"{size.stat().st_size / 1e6:,.0f}",
        f"{usual:.3f}",
        str(len(saves)),
        f"{statistics.median(saves):.2f}" if saves else "",
        f"{sum(saves) / sum(taken.values()):.2%}",
    )


def report(arguments: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(arguments.threads)
    yield from setting("saving", arguments.threads)
    yield (
        f"{arguments.minutes} minutes each, {arguments.batch} x {arguments.context} tokens a step. The share "
        "is that of saves in the time of the run."
    )
    yield ""
    yield line("model", "snapshot, MB", "step, s", "saves", "a save, s", "share")
    yield "|---|---:|---:|---:|---:|---:|"
    for name in arguments.models:
        beside = arguments.output.parent if arguments.output else Path()
        with tempfile.TemporaryDirectory(prefix="saving-", dir=beside) as folder:
            yield row(name, Path(folder), arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", choices=SHAPES, default=["RWKV-4 tiny", "RWKV-4 169M"], help="(default: both)"
    )
    add_numbers(parser, {"minutes": 10, "batch": 4, "context": 512})
    add_output(parser)
    arguments = parser.parse_args()
    publish("What saving costs", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
