"""From a path to a model that is whole, or an error that says which tensor is wrong."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from receptance.checkpoints import formats
from receptance.checkpoints.contents import Contents
from receptance.checkpoints.generations import Generation, recognise
from receptance.checkpoints.names import without_padding
from receptance.errors import CheckpointError, ConfigError
from receptance.models import AnyModel, Config

FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_FLOATS = ", ".join(map(str, FLOAT_DTYPES))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model from a file, and what the file said about it."""

    model: AnyModel
    path: Path  # of the file or folder that was read
    format: str  # "receptance", "safetensors", "pth" or "transformers"
    files: tuple[Path, ...]  # where the weights lie
    tokenizer: str | None = None  # its name, where the file gives one
    metadata: dict[str, str]


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    **config_overrides: int | float | str,
) -> Checkpoint:
    """Load a model from a file or folder of any known format, with its sizes read from the tensors.

    dtype             number format of the matrices; None keeps that of the file
    config_overrides  fields of the config to set otherwise than the file does, such as layer_norm_epsilon

    Vectors (decays, mixes, norms) are always float32, or float64 with a float64 model. Tensors that need no
    cast are mapped from the file and not copied. The model is in eval mode and its parameters may be trained.

    Raises CheckpointError, naming the file and the tensor, before anything is handed out; ConfigError when an
    argument cannot be obeyed.
    """
    device = _checked_device(device)
    if dtype is not None and dtype not in FLOAT_DTYPES:
        raise ConfigError(f"dtype is {dtype}, but weights need one of {_FLOATS}.")
    contents = formats.read(path)
    generation = recognise(contents)
    config = _config(contents, generation, config_overrides)
    with torch.device("meta"):
        model = generation.model(config)
    tensors = _checked_tensors(contents, model, generation.unused)
    matrices = dtype or functools.reduce(
        torch.promote_types, (tensor.dtype for tensor in tensors.values() if tensor.ndim >= 2)
    )
    vectors = torch.float64 if matrices == torch.float64 else torch.float32
    ready = {
        name: _cast(contents, name, tensor, matrices if tensor.ndim >= 2 else vectors).to(device)
        for name, tensor in tensors.items()
    }
    model.load_state_dict(ready, assign=True)
    return Checkpoint(
        model=model.eval(),
        path=contents.path,
        format=contents.format,
        files=contents.files,
        tokenizer=contents.tokenizer,
        metadata=contents.metadata,
    )


def _checked_device(device: str | torch.device) -> torch.device:
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


def _checked_tensors(contents: Contents, model: AnyModel, unused: Set[str]) -> dict[str, Tensor]:
    """Return the tensors in the shapes of the model, in its order, if they are exactly those it needs."""
    expected = model.state_dict()
    missing = [contents.name_in_file(name) for name in expected if name not in contents.tensors]
    unknown = [
        contents.name_in_file(name)
        for name in contents.tensors
        if name not in expected and name not in unused
    ]
    if missing or unknown:
        problems = [
            f"{names[0]!r} is {verdict}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
            for names, verdict in ((missing, "missing"), (unknown, f"no tensor of {type(model).__name__}"))
            if names
        ]
        raise CheckpointError(f"{contents.path}: {', and '.join(problems)}.")
    tensors = {}
    for name, parameter in expected.items():
        tensor = without_padding(contents.tensors[name], tuple(parameter.shape))
        if tensor.shape != parameter.shape:
            shapes = f"is {tuple(tensor.shape)}, but {model.config} needs {tuple(parameter.shape)}."
            raise contents.wrong(name, shapes)
        if tensor.dtype not in FLOAT_DTYPES:
            raise contents.wrong(name, f"is of {tensor.dtype}, but weights need one of {_FLOATS}.")
        tensors[name] = tensor
    return tensors


def _cast(contents: Contents, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in the dtype, laid out for the kernels, if all of its values are finite and stay so."""
    low, high = (float(bound) for bound in torch.aminmax(tensor))  # NaN spreads to both; one pass, no copy
    if not math.isfinite(low) or not math.isfinite(high):
        place = (~torch.isfinite(tensor)).nonzero()[0].tolist()
        value = float(tensor[tuple(place)])
        raise contents.wrong(name, f"holds {value} at {place}, but every weight must be finite.")
    largest = max(-low, high)
    if largest > torch.finfo(dtype).max:
        raise contents.wrong(
            name,
            f"holds values up to {largest:.4g}, too large for {dtype}. Use torch.bfloat16 or torch.float32.",
        )
    tensor = tensor.to(dtype).contiguous()
    # Another writer may have put the numbers at an odd address, where compiled kernels cannot read them.
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
