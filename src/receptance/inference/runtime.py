"""Which runtime a loaded model runs in: its torch module, or the native runtime."""

from __future__ import annotations

from typing import Literal

import torch

from receptance import native
from receptance.errors import ConfigError, KernelError
from receptance.models import AnyModel
from receptance.quantization.packed import Format
from receptance.runtimes import NativeModel

RuntimeName = Literal["auto", "torch", "native"]
IntegerFormat = Literal["int8", "int4"]

_FORMATS: dict[torch.dtype, Format] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def choose_runtime(
    model: AnyModel, name: RuntimeName, integers: IntegerFormat | None = None
) -> AnyModel | NativeModel:
    """Return the model in the runtime of this name; `auto` is the native one wherever that can serve.

    integers  number format of the matrices in the native runtime; None keeps the model's

    Raises ConfigError when the runtime cannot serve this model, KernelError where the native library is
    missing.
    """
    matrices = integers or _FORMATS.get(model.dtype)
    if name == "torch":
        if integers:
            raise ConfigError(f"dtype {integers} is of the native runtime alone: ask for that, or for auto.")
        return model
    if matrices is not None and model.device.type == "cpu" and native.library() is not None:
        return NativeModel.pack(model, matrices)
    if name == "auto" and not integers:
        return model
    if model.device.type != "cpu":
        raise ConfigError(f"the native runtime runs on the CPU, and the model was to be on {model.device}.")
    if matrices is None:
        raise ConfigError(
            f"the native runtime has no {str(model.dtype).removeprefix('torch.')}: "
            "give a dtype of float32, bfloat16, int8 or int4."
        )
    raise KernelError(str(native.unavailable_reason()))
