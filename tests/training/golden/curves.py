"""Curves that every version must draw again: `python -m tests.training.golden.curves` writes them.

Each generation learns the same stories by recipe.toml. A curve is the mean loss of each 10 steps and the loss
on stories held back. How far an honest run may be from it is measured: the same run is taken with another
number of threads, by other kernels, in bfloat16. A margin is three times the furthest that any of them was
off until then, because differences grow: with RWKV-5 and 6 those of rounding reach 1e-2 within 60 steps.
Another seed shows what the margins must stay below to tell anything.

Why RWKV-5 and 6 drift, and 4 and 7 hardly do (in float64 beside float32): the matrices of key and receptance
take steps that are too long for how the loss bends. Adam's steps stay stable while the rate times the largest
eigenvalue of the Hessian, over the root of the second moments, is below 2 (1 + beta1) / (1 - beta1) = 38
(arxiv.org/abs/2207.14484). At steps 8, 10 and 12 it is 124, 60 and 76 in RWKV-5.2, nearly all of it along
these matrices, and 35, 54 and 31 in RWKV-7; at step 17 still 100 in RWKV-5.2. So a difference of 5e-6 between
two runs is 0.4 after 40 steps, but 1e-5 in RWKV-7, and 1e-5 in 5.2 and 2e-5 in 6 where key and receptance are
held (in 5.0, 4e-3). Three tenths of the rate, ten times the warm-up or an epsilon of 1e-4 in Adam put it off
by 20 to 35 steps and no more, so the recipe is left as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from receptance import atomic, kernels
from receptance.data import prepare
from receptance.inference.machine import processor
from receptance.training import load_config, train
from receptance.training.metrics import read_metrics
from tests.training.golden.stories import stories

HERE = Path(__file__).parent
FILE = HERE / "curves.json"
STEPS_A_POINT = 10
MODELS = {
    "4": (),
    "5.0": ("--model.generation=5", "--model.version='5.0'", "--model.head_size=16"),
    "5.2": ("--model.generation=5", "--model.head_size=16"),
    "6": ("--model.generation=6", "--model.head_size=16", "--model.mix_rank=8", "--model.decay_rank=16"),
    "7": (
        "--model.generation=7",
        "--model.head_size=16",
        "--model.decay_rank=16",
        "--model.in_context_rank=16",
        "--model.value_rank=8",
        "--model.gate_rank=16",
    ),
}
TEXT = stories(3000)
TEXT_SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()
LEAST_MARGIN = 1e-4  # for processors whose sums were not measured
TORCH_KERNELS = {
    "wkv4": "scan",
    "wkv6": "chunked",
    "wkv7": "chunked",
    "linear_cross_entropy": "torch",
    "norm_mix": "reference",
    "norm": "torch",
    "adamw": "torch",
}


@dataclass(frozen=True)
class Curve:
    """What a run came to: nats a token."""

    points: Sequence[float]  # each the mean loss of some steps
    validation: float

    def distances(self, other: Curve) -> list[float]:
        """Return how far each point, and at last the validation, is from that of another curve."""
        ours, theirs = (*self.points, self.validation), (*other.points, other.validation)
        return [abs(one - two) for one, two in zip(ours, theirs, strict=True)]


def prepared(folder: Path) -> Path:
    """Prepare the text, its last tenth held back, and return the folder of its tokens."""
    (folder / "stories.txt").write_text(TEXT, encoding="utf-8")
    prepare(folder / "stories.txt", folder / "data", tokenizer="bytes", validation_fraction=0.1)
    return folder / "data"


def drawn(model: str, data: Path, folder: Path, *overrides: str, points: int | None = None) -> Curve:
    """Train, and return the curve; with `points`, no longer than for so many."""
    given = [*MODELS[model], f"--run.folder={folder}", f"--data.folder={data}", *overrides]
    steps: list[int] = [0]
    result = train(
        load_config(HERE / "recipe.toml", given),
        report=lambda progress: steps.append(progress.step),
        stop=lambda: points is not None and steps[-1] >= points * STEPS_A_POINT,
    )
    log = read_metrics(folder / "metrics.jsonl")
    losses = [record["loss"] for record in log if record["kind"] == "training"]
    means = [sum(part) / STEPS_A_POINT for part in batched(losses, STEPS_A_POINT)]
    return Curve(means, result.validation.loss if result.validation else math.nan)


def batched(losses: Sequence[float], size: int) -> list[Sequence[float]]:
    return [losses[start : start + size] for start in range(0, len(losses), size)]


def _measured(model: str, data: Path, folder: Path) -> dict[str, Any]:
    """Draw the curve of a model, and measure how far it is from that of the same run taken otherwise."""
    curve = drawn(model, data, folder / "curve")
    distances = {"another seed": drawn(model, data, folder / "seed", "--run.seed=2").distances(curve)}
    furthest: dict[str, list[float]] = {}
    for dtype in ("float32", "bfloat16"):
        override = f"--training.dtype={dtype}"
        distances[dtype] = drawn(model, data, folder / dtype, override).distances(curve)
        torch.set_num_threads(2)
        two_threads = drawn(model, data, folder / f"{dtype} threads", override)
        distances[f"{dtype}, two threads"] = two_threads.distances(curve)
        torch.set_num_threads(1)
        with kernels.use(**TORCH_KERNELS):
            torch_kernels = drawn(model, data, folder / f"{dtype} kernels", override)
        distances[f"{dtype}, kernels of torch"] = torch_kernels.distances(curve)
        ways = [measured for name, measured in distances.items() if name != "another seed"]
        furthest[dtype] = [max(at_a_point) for at_a_point in zip(*ways, strict=True)]
    return {
        "points": [round(point, 6) for point in curve.points],
        "validation": round(curve.validation, 6),
        "margins": {dtype: margins(furthest[dtype]) for dtype in furthest},
        "largest_distances": {name: rounded_up(max(distances[name])) for name in distances},
    }


def margins(distances: Sequence[float]) -> list[float]:
    """Return three times the largest distance so far at each point: once apart, runs stay apart."""
    return [rounded_up(max(3 * distance, LEAST_MARGIN)) for distance in accumulate(distances, max)]


def rounded_up(number: float) -> float:
    return math.ceil(number * 1e6) / 1e6


def _write() -> None:
    torch.set_num_threads(1)
    made_with = {"processor": processor(), "torch": torch.__version__}
    found: dict[str, Any] = {"made_with": made_with, "text_sha256": TEXT_SHA256, "curves": {}}
    with TemporaryDirectory() as folder:
        data = prepared(Path(folder))
        for model in MODELS:
            found["curves"][model] = _measured(model, data, Path(folder, model))
            print(model, found["curves"][model]["largest_distances"], flush=True)
    atomic.write_text(FILE, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    _write()
