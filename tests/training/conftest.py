"""A prepared folder of real text, small enough to train on in a second, and runs over it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from receptance.data import prepare
from receptance.training import Config, DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainingConfig

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let two test processes share two cores, and sums come in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of Python's module `random`, in bytes."""
    folder = tmp_path_factory.mktemp("data")
    source = Path(random.__file__).read_text(encoding="utf-8")
    for number in range(0, len(source), 4000):
        (folder / f"part-{number:05}.txt").write_text(source[number : number + 4000], encoding="utf-8")
    prepare(folder, folder / "prepared", tokenizer="bytes", validation_fraction=0.2, include=("*.txt",))
    return folder / "prepared"


@pytest.fixture
def make_config(data: Path, tmp_path: Path) -> MakeConfig:
    """A function that returns the config of a tiny run, with the given keys of any section changed."""

    def make(**changes: object) -> Config:
        sections = {
            "run": RunConfig(folder=tmp_path / "run"),
            "model": ModelConfig(num_layers=2, hidden_size=16),
            "data": DataConfig(folder=data, context=24),
            "training": TrainingConfig(
                batch_size=4, max_steps=6, dtype="float32", validate_every=0, validation_tokens=500
            ),
            "optimizer": OptimizerConfig(learning_rate=5e-3, final_learning_rate=1e-3),
        }
        for name, section in sections.items():
            own = {key: changes.pop(key) for key in list(changes) if hasattr(section, key)}
            sections[name] = replace(section, **own)
        assert not changes
        return Config(**sections)  # type: ignore[arg-type]

    return make
