"""From a path to a model that is whole, or an error that says which tensor is wrong."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

from receptance.checkpoints import formats, hub
from receptance.checkpoints.contents import FLOAT_DTYPES, Contents
from receptance.checkpoints.generations import Generation, recognise
from receptance.checkpoints.stored_model import StoredModel, from_contents
from receptance.checkpoints.tuning import NONE, Tuning, tuned_state
from receptance.errors import CheckpointError, ConfigError
from receptance.models import AnyModel, Config, State


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model from a file, and what the file said about it."""

    model: AnyModel
    path: Path  # of the file or folder that was read
    format: str  # one of the names in `formats`
    files: tuple[Path, ...]  # where the weights lie
    tokenizer: str | None = None  # its name, where the file gives one
    metadata: dict[str, str]
    initial_state: State | None = None  # what texts start from, a batch of one, where that was tuned


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    tuning: Tuning = NONE,
    **config_overrides: int | float | str,
) -> Checkpoint:
    """Load a model from a file or folder of any known format, with its sizes read from the tensors.

    path              also a name on a hub, such as "org/name"; see `hub.local_path`
    revision          branch, tag or commit of a model on a hub
    dtype             number format of the matrices; None keeps that of the file
    tuning            a tuned state and an adapter that go on top of the model
    config_overrides  fields of the config to set otherwise than the file does, such as layer_norm_epsilon

    Vectors (decays, mixes, norms) become float32, as the models keep them. Tensors that need no
    cast are mapped from the file and not copied. The model is in eval mode and its parameters may be trained.

    Raises CheckpointError, naming the file and the tensor, before anything is handed out; ConfigError when an
    argument cannot be obeyed.
    """
    require_float(dtype)
    device = checked_device(device)
    stored = open_model(path, revision=revision, **config_overrides)
    dtype = dtype or stored.dtype
    stored = tuning.applied(stored, dtype).cast(dtype)
    model = module(stored, device)
    tuned = stored.tuned_state
    state = tuned_state.as_state(tuned, stored.config, model.initial_state(1)) if tuned else None
    return Checkpoint(
        model=model,
        path=stored.path,
        format=stored.format,
        files=stored.files,
        tokenizer=stored.tokenizer,
        metadata=stored.metadata,
        initial_state=state,
    )


def open_model(
    path: str | Path, *, revision: str | None = None, **config_overrides: int | float | str
) -> StoredModel:
    """Return the model in a file or folder without reading its weights; arguments and errors are `load`'s."""
    contents = formats.read(hub.local_path(path, revision))
    generation = recognise(contents)
    return from_contents(contents, generation, _config(contents, generation, config_overrides))


def module(stored: StoredModel, device: str | torch.device = "cpu") -> AnyModel:
    """Return the torch module of a model in a file; see `load`."""
    model = stored.empty()
    weights = stored.cast(stored.dtype).weights
    model.load_state_dict({name: weight.read().to(device) for name, weight in weights.items()}, assign=True)
    return model.eval()


def require_float(dtype: torch.dtype | None) -> None:
    """Raise ConfigError where weights cannot be in this dtype."""
    if dtype is not None and dtype not in FLOAT_DTYPES:
        floats = ", ".join(map(str, FLOAT_DTYPES))
        raise ConfigError(f"dtype is {dtype}, but weights need one of {floats}.")


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device; raise ConfigError where it cannot be used."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device {str(device)!r} cannot be used: {reason}") from error


def _config(contents: Contents, generation: Generation, overrides: Mapping[str, Any]) -> Config:
    """Return the config: sizes from the shapes, the rest from the file or its default, overrides on top."""
    types = {field.name: get_type_hints(generation.config)[field.name] for field in fields(generation.config)}
    for name, override in overrides.items():
        if problem := _problem(name, override, types):
            raise ConfigError(problem)
    sizes = generation.sizes(contents)
    # Any: what each of them may be was checked against the fields.
    claimed: dict[str, Any] = {name: value for name, value in contents.config.items() if name != "generation"}
    for name, value in claimed.items():
        if problem := _problem(name, value, types):
            raise CheckpointError(f"{contents.path}: its config is wrong: {problem}")
        if name in sizes and value != sizes[name]:
            raise CheckpointError(
                f"{contents.path}: its config says {name} = {value}, but its tensors have {sizes[name]}."
            )
    try:
        config = generation.config(**(sizes | claimed))
    except ConfigError as error:
        raise CheckpointError(f"{contents.path}: no model has these sizes: {error}") from error
    return replace(config, **overrides)


def _problem(name: str, value: object, types: Mapping[str, type]) -> str | None:
    """Say why a value cannot be this field of the config, or return None."""
    if name not in types:
        close = difflib.get_close_matches(name, types, n=1)
        meant = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(types)}."
        return f"there is no {name!r}. {meant}"
    if choices := get_args(types[name]):
        return (
            None if value in choices else f"{name} is {value!r}, but it must be one of {', '.join(choices)}."
        )
    allowed = (int, float) if types[name] is float else (types[name],)
    if type(value) not in allowed or (isinstance(value, float) and not math.isfinite(value)):
        return f"{name} is {value!r}, but it must be a finite {types[name].__name__}."
    return None
