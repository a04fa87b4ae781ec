"""The cross entropy of `native/cross_entropy.cpp`: one pass over each row of logits."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from receptance import native
from receptance.errors import KernelError

_TYPES = {torch.float32: 0, torch.bfloat16: 1}  # as in native/table.h
_INTEGER, _POINTER, _SIZE = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64


def refuses(
    hidden: Tensor, weight: Tensor, targets: Tensor, max_logit_weight: float, z_loss_weight: float
) -> str | None:
    """Say why the compiled kernel cannot serve this call, or None."""
    if hidden.device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {hidden.device}"
    if hidden.dtype not in _TYPES:
        return f"it takes float32 and bfloat16, got {hidden.dtype}"
    return None


def in_place(
    logits: Tensor, targets: Tensor, max_logit_weight: float, z_loss_weight: float, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the nll and the penalties of each token, and write the gradient over the logits."""
    tokens, vocabulary = logits.shape
    targets = targets.long().contiguous()
    nll, penalty = torch.empty(2, tokens, dtype=torch.float32)
    _library().receptance_cross_entropy(
        _TYPES[logits.dtype],
        *(x.data_ptr() for x in (logits, targets, nll, penalty)),
        max_logit_weight,
        z_loss_weight,
        gradient,
        *(tokens, vocabulary),
        torch.get_num_threads(),
    )
    return nll, penalty


@cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    library.receptance_cross_entropy.argtypes = [
        _INTEGER,
        *(_POINTER, _POINTER, _POINTER, _POINTER),
        *(ctypes.c_float, ctypes.c_float),
        _INTEGER,
        *(_SIZE, _SIZE),
        _INTEGER,
    ]
    library.receptance_cross_entropy.restype = None
    return library
