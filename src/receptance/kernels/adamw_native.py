"""AdamW and the norm of gradients in the native library: `native/adamw.cpp` tells how they compute."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from receptance import native
from receptance.errors import KernelError
from receptance.kernels.adamw_arguments import Parameter, Rates

_TYPES = {torch.float32: 0, torch.bfloat16: 1}  # as in native/table.h


class _AdamW(ctypes.Structure):
    """The struct AdamW in native/table.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("gradient", "master", "mean", "square", "weight")),
        *((name, ctypes.c_float) for name in ("gradient_scale", "beta2", "new1", "new2", "kept")),
        *((name, ctypes.c_float) for name in ("rate", "inverse_root", "epsilon")),
        ("size", ctypes.c_int64),
    )


def refuses(parameters: Sequence[Parameter], rates: Rates) -> str | None:
    """Say why the compiled kernel cannot serve this call, or None."""
    for each in parameters:
        for tensor in (each.weight, each.gradient):
            if reason := refuses_tensor(tensor):
                return reason
        for tensor in (each.weight, each.master, each.exp_avg, each.exp_avg_sq):
            if not tensor.is_contiguous():
                return f"it takes contiguous tensors, got strides {tensor.stride()}"
    return None


def refuses_tensor(tensor: Tensor) -> str | None:
    """Say why the compiled kernels cannot read this tensor, or None."""
    if tensor.device.type != "cpu":
        return f"it runs on the CPU, and a tensor is on {tensor.device}"
    if tensor.dtype not in _TYPES:
        return f"it takes float32 and bfloat16, got {tensor.dtype}"
    return None


def adamw(parameters: Sequence[Parameter], rates: Rates) -> None:
    """Do what the contract says."""
    (beta1, beta2), library, threads = rates.betas, _library(), torch.get_num_threads()
    for each in parameters:
        each.step.add_(1)
        step, gradient = float(each.step), each.gradient.contiguous()
        is_rounded = each.weight is not each.master
        arguments = _AdamW(
            type=_TYPES[gradient.dtype],
            gradient=gradient.data_ptr(),
            master=each.master.data_ptr(),
            mean=each.exp_avg.data_ptr(),
            square=each.exp_avg_sq.data_ptr(),
            weight=each.weight.data_ptr() if is_rounded else None,
            gradient_scale=rates.gradient_scale,
            beta2=beta2,
            new1=1 - beta1,
            new2=1 - beta2,
            kept=1 - rates.learning_rate * rates.weight_decay,
            rate=rates.learning_rate / (1 - beta1**step),
            inverse_root=1 / math.sqrt(1 - beta2**step),
            epsilon=rates.epsilon,
            size=gradient.numel(),
        )
        library.receptance_adamw(ctypes.byref(arguments), threads)
        changed = (each.master, each.exp_avg, each.exp_avg_sq, *([each.weight] if is_rounded else []))
        torch.autograd.graph.increment_version(changed)


def norm(tensors: Sequence[Tensor]) -> float:
    """Return the square root of the sum of all squares, which is taken in double precision."""
    library, threads, total = _library(), torch.get_num_threads(), 0.0
    for tensor in tensors:
        given = tensor.contiguous()
        total += library.receptance_sum_of_squares(
            _TYPES[given.dtype], given.data_ptr(), given.numel(), threads
        )
    return math.sqrt(total)


@cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    library.receptance_adamw.argtypes = [ctypes.POINTER(_AdamW), ctypes.c_int]
    library.receptance_adamw.restype = None
    library.receptance_sum_of_squares.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64),
        ctypes.c_int,
    ]
    library.receptance_sum_of_squares.restype = ctypes.c_double
    return library
