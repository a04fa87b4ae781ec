"""Which runtime a model runs in: its torch module, or the native runtime."""

from __future__ import annotations

from typing import Literal

import torch

from receptance import checkpoints, native
from receptance.checkpoints.load import checked_device
from receptance.checkpoints.packed_weights import own_formats
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import ConfigError, KernelError, ReceptanceError
from receptance.models import AnyModel
from receptance.runtimes import NativeModel

RuntimeName = Literal["auto", "torch", "native"]
IntegerFormat = Literal["int8", "int4"]


def choose_runtime(
    stored: StoredModel,
    name: RuntimeName,
    integers: IntegerFormat | None = None,
    device: str | torch.device = "cpu",
) -> AnyModel | NativeModel:
    """Return a model in the runtime of this name; `auto` is the native one wherever that can serve.

    integers  number format of the matrices in the native runtime; None keeps the model's

    Raises ConfigError when the runtime cannot serve this model, KernelError where the native library is
    missing, CheckpointError when a weight cannot be read.
    """
    device = checked_device(device)
    if name == "torch" and integers:
        raise ConfigError(f"dtype {integers} is of the native runtime alone: ask for that, or for auto.")
    problem = None if name == "torch" else _problem(stored, integers, device)
    if name == "torch" or (name == "auto" and problem and not integers):
        return checkpoints.module(stored, device)
    if problem:
        raise problem
    return NativeModel.pack(stored, integers)


def _problem(
    stored: StoredModel, integers: IntegerFormat | None, device: torch.device
) -> ReceptanceError | None:
    """Say why the native runtime cannot serve, or return None."""
    if device.type != "cpu":
        return ConfigError(f"the native runtime runs on the CPU, and the model was to be on {device}.")
    if not integers:
        try:
            own_formats(stored)
        except ConfigError as error:
            return error
    return None if native.library() is not None else KernelError(str(native.unavailable_reason()))
