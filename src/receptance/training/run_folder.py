"""The folder of a run: what it holds, and under which names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from receptance import atomic
from receptance.claim import claimed
from receptance.errors import ConfigError
from receptance.training.snapshot_store import SnapshotStore


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes.

    config.toml             the recipe, overrides and defaults filled in
    metrics.jsonl           a line for each step and each validation
    model.safetensors       the model, to generate with; the tokenizer's file lies beside it
    model-ema.safetensors   the moving average of its weights, where one is kept
    snapshots/step-…        what the run goes on from, a folder each
    loss.png                the losses as a picture
    """

    path: Path

    @property
    def config(self) -> Path:
        """The recipe, overrides and defaults filled in."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """A line for each step and each validation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The model, to generate with."""
        return self.path / "model.safetensors"

    @property
    def average(self) -> Path:
        """The moving average of the model's weights."""
        return self.path / "model-ema.safetensors"

    @property
    def snapshots(self) -> SnapshotStore:
        """What the run goes on from."""
        return SnapshotStore(self.path / "snapshots")

    @property
    def plot(self) -> Path:
        """The losses as a picture."""
        return self.path / "loss.png"

    def refuse_if_used(self) -> None:
        """Raise ConfigError where a run was here already, so that none is ever overwritten."""
        if self.config.exists():
            raise ConfigError(
                f"{self.path} already holds a run. Go on with it by `receptance train --resume {self.path}`, "
                "or choose another folder by --run.folder=…"
            )
        for path in (self.checkpoint, self.metrics):
            if path.exists():
                raise ConfigError(
                    f"{path} is there already, but no {self.config.name} of a run. Remove the folder, or "
                    "choose another by --run.folder=…"
                )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out of the folder, and remove what a killed one left half written.

        Raises ConfigError where another one has it.
        """
        with claimed(self.path, "training", "choose another folder by --run.folder=…"):
            if self.snapshots.folder.is_dir():
                atomic.remove_leftovers(self.snapshots.folder)
            yield
