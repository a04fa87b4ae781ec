"""Where the records of a run may go besides `metrics.jsonl`: TensorBoard and Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from receptance import atomic
from receptance.errors import ConfigError
from receptance.training.config import Config, TrackingConfig
from receptance.training.metrics import Record, Sink
from receptance.training.recipe import config_to_tables

# What places a record and is no curve.
PLACES = ("kind", "step", "tokens")


def open_sinks(config: Config, step: int, logged: int) -> tuple[Sink, ...]:
    """Return those that a recipe asks for, to go on after a step of a run.

    `logged` is the last step that an earlier session told them of. Raises ConfigError where a package is
    missing; the text says how to install it.
    """
    sinks: list[Sink] = []
    if config.tracking.tensorboard:
        sinks.append(TensorBoard(config.run.folder / "tensorboard", step))
    if config.tracking.wandb != "off":
        sinks.append(WeightsAndBiases(config.run.folder, config.tracking, config_to_tables(config), logged))
    return tuple(sinks)


class TensorBoard:
    """Writes event files; `tensorboard --logdir runs` shows the runs beside one another."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)  # Any: it has no types

    def append(self, record: Record) -> None:
        """Add each number of a record to its curve, and each text as such."""
        for name, value in _curves(record):
            add = self._writer.add_text if isinstance(value, str) else self._writer.add_scalar
            add(name, value, record["step"])

    def close(self) -> None:
        """Write what is still to be written."""
        self._writer.close()


class WeightsAndBiases:
    """Sends records to Weights & Biases, or keeps them in the run's folder until `wandb sync` does.

    What was sent cannot be taken back, so steps that are done again after a resume are not sent again. They
    are the same to the bit, unless the recipe was changed.
    """

    def __init__(self, folder: Path, config: TrackingConfig, tables: dict[str, Any], logged: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        folder.mkdir(parents=True, exist_ok=True)
        name, self._sent = _session(folder / "wandb-id.txt", logged)
        self._run: Any = wandb.init(  # Any: an extra that need not be installed
            project=config.project,
            name=folder.name,
            id=name,
            resume="allow",
            dir=str(folder),
            mode=config.wandb,
            config=tables,
        )

    def append(self, record: Record) -> None:
        """Log the numbers and texts of a record at its step, unless it was sent before."""
        # Of its last step a session may have sent a part; what is sent of it again changes nothing there.
        if record["step"] > self._sent or (record["step"] == self._sent and record["kind"] != "training"):
            self._run.log(dict(_curves(record)), step=record["step"])

    def close(self) -> None:
        """Write what is still to be written."""
        self._run.finish()


def _curves(record: Record) -> Iterator[tuple[str, float | str]]:
    """Yield the values of a record under the names of their curves, such as training/loss."""
    for name, value in record.items():
        if name not in PLACES and isinstance(value, int | float | str):
            yield f"{record['kind']}/{name}", value


def _session(path: Path, logged: int) -> tuple[str, int]:
    """Return the name under which a run is known there, and the last step that its sessions sent.

    Both are kept in a file: a log that is taken back after each of several kills forgets how far it was.
    """
    words = path.read_text(encoding="utf-8").split() if path.is_file() else []
    name = words[0] if words else secrets.token_hex(8)
    sent = max(logged, *(int(word) for word in words[1:2] if word.isdecimal()), 0)
    atomic.write_text(path, f"{name} {sent}\n")
    return name, sent


def _missing(package: str) -> ConfigError:
    return ConfigError(
        f"tracking.{package} needs the package {package}, which is not installed. Install it by "
        f"`pip install 'receptance[{package}]'`, or leave tracking.{package} out."
    )
