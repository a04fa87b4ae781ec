"""The folder of a run: what it holds, and under which names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from receptance.errors import ConfigError


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes.

    config.toml             the recipe, overrides and defaults filled in
    metrics.jsonl           a line for each step and each validation
    model.safetensors       the model, to generate with; the tokenizer's file lies beside it
    snapshot.safetensors    what the run goes on from
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
    def snapshot(self) -> Path:
        """What the run goes on from."""
        return self.path / "snapshot.safetensors"

    @property
    def plot(self) -> Path:
        """The losses as a picture."""
        return self.path / "loss.png"

    def refuse_if_used(self) -> None:
        """Raise ConfigError where a run was here already, so that none is ever overwritten."""
        if self.snapshot.exists():
            raise ConfigError(
                f"{self.path} already holds a run. Go on with it by `receptance train --resume {self.path}`, "
                "or choose another folder by --run.folder=…"
            )
        for path in (self.checkpoint, self.metrics, self.config):
            if path.exists():
                raise ConfigError(
                    f"{path} is there already, but no snapshot to go on from. Remove the folder, or choose "
                    "another by --run.folder=…"
                )
