"""From a model to a file or folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from receptance.checkpoints import huggingface, pickled, single_file
from receptance.checkpoints.contents import Contents
from receptance.checkpoints.formats import FormatName
from receptance.checkpoints.generations import recognise
from receptance.checkpoints.names import wrapper_prefix
from receptance.errors import CheckpointError, ConfigError
from receptance.models import AnyModel, Config


def save(
    model: AnyModel,
    path: str | Path,
    *,
    tokenizer: str | None = None,
    metadata: Mapping[str, str] | None = None,
    format: FormatName = "receptance",  # noqa: A002 - the word that users look for
) -> None:
    """Write a model, atomically: whoever is interrupted keeps the file of before.

    tokenizer  name of its tokenizer, written into the header where the format has a place for it
    metadata   further strings for the header of our own format
    format     "receptance": one safetensors file; "pth": the official format; "transformers": a new folder

    No value changes. Raises CheckpointError when a weight is not finite, because no reader should
    be handed it; ConfigError when the format cannot hold the model or the folder is not empty; OSError when
    the disk is full or the place cannot be written.
    """
    path = Path(path)
    tensors = _finite_tensors(model)
    match format:
        case "receptance":
            single_file.write(path, tensors, model.config, tokenizer, metadata or {})
        case "pth":
            _require_tensors_suffice(path, tensors, model.config)
            pickled.write(path, tensors, model.config.generation)
        case "transformers":
            huggingface.write(path, tensors, model.config, metadata or {})
        case _:
            raise ConfigError(
                f"format is {format!r}, but it must be one of {', '.join(get_args(FormatName))}."
            )


def _require_tensors_suffice(path: Path, tensors: Mapping[str, Tensor], config: Config) -> None:
    """Check that a file of tensors alone says all there is to say about the model."""
    contents = Contents(path=path, format="pth", tensors=tensors, files=())
    generation = recognise(contents)
    read_back = generation.config(**generation.sizes(contents))
    for field in fields(config):
        if getattr(config, field.name) != getattr(read_back, field.name):
            raise ConfigError(
                f"{path}: a .pth file cannot say that {field.name} is {getattr(config, field.name)}; whoever "
                f"reads it would use {getattr(read_back, field.name)}. Save in another format."
            )


def _finite_tensors(model: AnyModel) -> dict[str, Tensor]:
    state: dict[str, Tensor] = model.state_dict()
    prefix = wrapper_prefix(state)  # of torch.compile and the like
    for name, tensor in state.items():
        if not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):
            raise CheckpointError(f"{name!r} holds values that are not finite, so the model was not saved.")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
