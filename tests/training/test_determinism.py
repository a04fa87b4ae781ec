"""Tiny runs of every generation give the losses, gradients and weights that are written in determinism.json.

To the bit on a machine like the one where that file was made, and within rounding everywhere. The operators
are those of the reference, which sum in the order of the formula; the fast ones are held to these elsewhere.
After a change that is meant to change the numbers, `python -m tests.training.test_determinism` writes the
file anew.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from receptance import checkpoints, kernels
from receptance.data import prepare
from receptance.training import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    train,
)
from receptance.training.metrics import read_metrics

FILE = Path(__file__).with_name("determinism.json")
REFERENCE = {
    **dict.fromkeys(("wkv4", "wkv6", "wkv7", "linear_cross_entropy", "norm_mix"), "reference"),
    **dict.fromkeys(("adamw", "norm"), "torch"),
}
SIZES: dict[str, dict[str, int]] = {
    "4": {},
    "5": {"head_size": 8},
    "6": {"head_size": 8, "mix_rank": 3, "decay_rank": 5},
    "7": {"head_size": 8, "decay_rank": 3, "in_context_rank": 4, "value_rank": 5, "gate_rank": 6},
}
DTYPES = ("float32", "bfloat16")
# Sums in another order, over ten steps; bfloat16 weights are rounded to 8 bits after each.
TOLERANCES = {"float32": 1e-5, "bfloat16": 5e-3}


def machine() -> dict[str, str]:
    """Return what decides in which order numbers are summed."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def run(folder: Path, generation: str, dtype: str) -> dict[str, Any]:
    """Train for ten steps on a text of numbers, and return what came of it."""
    with kernels.use(**REFERENCE):
        return _run(folder, generation, dtype)


def _run(folder: Path, generation: str, dtype: str) -> dict[str, Any]:
    text = "".join(f"{number} times {number} is {number * number}.\n" for number in range(400))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    prepare(folder / "text.txt", folder / "data", tokenizer="bytes", validation_fraction=0.0)
    train(
        Config(
            run=RunConfig(folder=folder / "run", seed=1),
            model=ModelConfig(generation=generation, num_layers=2, hidden_size=16, **SIZES[generation]),  # type: ignore[arg-type]
            data=DataConfig(folder=folder / "data", context=32),
            training=TrainingConfig(batch_size=4, max_steps=10, dtype=dtype),  # type: ignore[arg-type]
            optimizer=OptimizerConfig(learning_rate=5e-3, final_learning_rate=1e-3, weight_decay=0.1),
        )
    )
    log = read_metrics(folder / "run" / "metrics.jsonl")
    weights = hashlib.sha256()
    model = checkpoints.load(folder / "run").model
    for name, weight in sorted(model.state_dict().items()):
        weights.update(name.encode() + weight.float().numpy().tobytes())
    return {
        "losses": [record["loss"] for record in log],
        "gradient_norms": [record["gradient_norm"] for record in log],
        "weights_sha256": weights.hexdigest(),
    }


@pytest.mark.parametrize("generation", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_t10_a_tiny_run_gives_the_numbers_on_file(
    tmp_path: Path, generation: str, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    written = json.loads(FILE.read_text(encoding="utf-8"))
    expected, found = written["runs"][f"{generation} {dtype}"], run(tmp_path, generation, dtype)
    tolerance = TOLERANCES[dtype]
    assert found["losses"] == pytest.approx(expected["losses"], rel=tolerance)
    assert found["gradient_norms"] == pytest.approx(expected["gradient_norms"], rel=10 * tolerance)
    how = "within rounding, as this is another machine"
    if written["machine"] == machine():
        assert found == expected
        how = "to the bit"
    record_property(
        "figure", f"T10 RWKV-{generation} {dtype}: losses, gradients and weights as on file, {how}"
    )


def _write() -> None:
    torch.set_num_threads(1)
    runs = {}
    for generation in SIZES:
        for dtype in DTYPES:
            with TemporaryDirectory() as folder:
                runs[f"{generation} {dtype}"] = run(Path(folder), generation, dtype)
    FILE.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
