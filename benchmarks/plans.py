"""What a plan says against what the run then takes: `python -m benchmarks.plans [--output FILE]`.

Each case is planned and then trained, in a fresh process each, by turns, so that both find the machine in the
same state. The memory is the most that the process of the run ever had; the time is the median of its steps,
without the first ones. The ratios are the medians over the turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

from benchmarks.report import add_numbers, add_output, line, publish, setting
from receptance import kernels
from receptance.data import prepare
from receptance.inference.fresh_process import Report, call_in_fresh_process
from receptance.inference.machine import peak_bytes
from receptance.training import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Progress,
    RunConfig,
    TrainingConfig,
    plan,
    train,
)

WARM_UP_STEPS = 2
STEPS = 7


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a recipe of the table has of its own."""

    generation: Literal["4", "5", "6", "7"]
    layers: int
    channels: int
    context: int = 256
    batch: int = 2
    accumulation: int = 1
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    activation_checkpointing: bool = False

    def config(self, folder: Path) -> Config:
        """Return the recipe of a run in a folder, which holds the text too."""
        return Config(
            run=RunConfig(folder=folder / "run"),
            model=ModelConfig(
                generation=self.generation,
                num_layers=self.layers,
                hidden_size=self.channels,
                vocabulary_size=8192,
            ),
            data=DataConfig(folder=folder / "data", context=self.context),
            training=TrainingConfig(
                batch_size=self.batch,
                accumulation=self.accumulation,
                dtype=self.dtype,
                activation_checkpointing=self.activation_checkpointing,
                max_steps=STEPS,
            ),
            optimizer=OptimizerConfig(learning_rate=1e-4, final_learning_rate=1e-4),
        )

    def __str__(self) -> str:
        parts = [f"RWKV-{self.generation} {self.layers} x {self.channels}", self.dtype]
        parts.append(f"{self.accumulation} x {self.batch} x {self.context}")
        return ", ".join([*parts, *["checkpointing"] * self.activation_checkpointing])


CASES = (
    Case(generation="4", layers=6, channels=512),
    Case(generation="4", layers=12, channels=768, batch=1, dtype="float32"),
    Case(generation="5", layers=6, channels=512, activation_checkpointing=True),
    Case(generation="5", layers=12, channels=256, dtype="float32", accumulation=2),
    Case(generation="6", layers=6, channels=512, accumulation=2),
    Case(generation="6", layers=4, channels=512, dtype="float32"),
    Case(generation="7", layers=12, channels=512),
    Case(generation="7", layers=6, channels=512, dtype="float32", activation_checkpointing=True),
)


def planned(config: Config, threads: int, _: Report) -> tuple[float, float]:
    """Return (bytes, seconds a step) as `receptance plan` says."""
    start(threads)
    (stage,) = plan(config).stages
    return stage.memory.peak, stage.seconds_per_step or float("nan")


def taken(config: Config, threads: int, _: Report) -> tuple[float, float]:
    """Return (bytes, seconds a step) as `receptance train` takes."""
    start(threads)
    ends: list[float] = []

    def look(_: Progress) -> None:
        ends.append(time.perf_counter())

    train(config, report=look)
    seconds = statistics.median(later - earlier for earlier, later in pairwise(ends[WARM_UP_STEPS:]))
    return peak_bytes() or float("nan"), seconds


def start(threads: int) -> None:
    """Do to the process what the command line does."""
    import torch

    kernels.tune_allocator()
    torch.set_num_threads(threads)


def row(case: Case, folder: Path, arguments: argparse.Namespace) -> str:
    """Plan and train by turns, and return the line of the table."""
    figures = []
    for turn in range(arguments.turns):
        config = case.config(folder)
        said = call_in_fresh_process(partial(planned, config, arguments.threads), ignore)
        with tempfile.TemporaryDirectory(prefix=f"{turn}-", dir=folder) as runs:
            own = replace(config, run=replace(config.run, folder=Path(runs) / "run"))
            figures.append((*said, *call_in_fresh_process(partial(taken, own, arguments.threads), ignore)))
    memory, seconds, memory_taken, seconds_taken = map(statistics.median, zip(*figures, strict=True))
    return line(
        str(case),
        *(f"{size / 1e6:,.0f}" for size in (memory, memory_taken)),
        f"{statistics.median(said / had for said, _, had, _ in figures) - 1:+.0%}",
        *(f"{time:.3f}" for time in (seconds, seconds_taken)),
        f"{statistics.median(said / had for _, said, _, had in figures) - 1:+.0%}",
    )


def ignore(*_: object) -> None:
    """Take no note of how far a process is."""


def report(arguments: argparse.Namespace) -> Iterator[str]:
    yield from setting("plans", arguments.threads)
    yield f"{STEPS} steps each, {arguments.turns} turns; a batch is accumulation x samples x context."
    yield ""
    yield line("run", "planned, MB", "taken, MB", "off by", "planned, s a step", "taken, s", "off by")
    yield "|---|---:|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory(prefix="plans-") as folder:
        text = "".join(f"{number} times {number} is {number * number}.\n" for number in range(20_000))
        (Path(folder) / "text.txt").write_text(text, encoding="utf-8")
        prepare(Path(folder) / "text.txt", Path(folder) / "data", tokenizer="bytes", validation_fraction=0.0)
        for case in CASES:
            yield row(case, Path(folder), arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_numbers(parser, {"turns": 2})
    add_output(parser)
    arguments = parser.parse_args()
    publish("What plans say, and what runs take", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
