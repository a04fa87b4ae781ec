"""From a model to a file or folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from receptance.checkpoints import writers
from receptance.checkpoints.stored_model import from_module
from receptance.checkpoints.tuning import parts, tuned_state
from receptance.checkpoints.writers import FormatName
from receptance.models import AnyModel, Config, State


def save(
    model: AnyModel,
    path: str | Path,
    *,
    tokenizer: str | None = None,
    metadata: Mapping[str, str] | None = None,
    state: State | None = None,
    format: FormatName = "receptance",  # noqa: A002 - the word that users look for
) -> None:
    """Write a model, atomically: whoever is interrupted keeps the file of before.

    tokenizer  name of its tokenizer, written into the header where the format has a place for it
    metadata   further strings for the header of our own format
    state      a tuned initial state, a batch of one, that texts of the model shall start from
    format     "receptance": one safetensors file; "pth": the official format; "transformers": a new folder;
               `writers.WRITERS` has them all

    No value changes. Raises CheckpointError when a weight is not finite, because no reader should
    be handed it; ConfigError when the format cannot hold the model or the folder is not empty; OSError when
    the disk is full or the place cannot be written.
    """
    tuned = {} if state is None else tuned_state.of_state(state, model.config)
    writers.write(Path(path), from_module(model, tokenizer, metadata, tuned), format)


def save_state(state: State, config: Config, path: str | Path) -> None:
    """Write a tuned initial state, a batch of one, into a `.pth` or `.safetensors` file, atomically.

    Raises ConfigError when the state is not of a model of this config, has read a text or is not finite;
    OSError when the disk is full or the place cannot be written.
    """
    weights = tuned_state.of_state(state, config)
    parts.write(Path(path), weights, {tuned_state.GENERATION: config.generation})
