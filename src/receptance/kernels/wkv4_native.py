"""WKV-4 in the native library: `native/wkv4.h` tells how it computes."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from receptance import native
from receptance.errors import KernelError
from receptance.kernels.wkv4_scan import BLOCK

_TYPES = {torch.float32: 0, torch.bfloat16: 1}  # as in native/table.h
_INTEGER, _POINTER, _SIZE = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64


def refuses(k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: tuple[Tensor, Tensor, Tensor]) -> str | None:
    """Say why the compiled kernel cannot serve this call, or None."""
    p = sums[2]
    if p.device.type != "cpu":
        return f"it runs on the CPU, and the tensors are on {p.device}"
    if k.dtype not in _TYPES or v.dtype != k.dtype:
        return f"it takes k and v both in float32 or both in bfloat16, got {k.dtype} and {v.dtype}"
    if p.dtype != torch.float32:
        return f"it takes w, u and the sums in float32, got {p.dtype}"
    return None


def forward(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (y, a, b, p, checkpoints), as the operator that `wkv4` registers."""
    batch, time, channel = k.shape
    k, v, w, u, a, b, p = (x.contiguous() for x in (k, v, w, u, a, b, p))
    y = torch.empty_like(v)
    ends = torch.empty_like(a), torch.empty_like(b), torch.empty_like(p)
    checkpoints = p.new_empty((batch, -(-time // BLOCK), 3, channel) if keep else 0)
    _library().receptance_wkv4_forward(
        _TYPES[k.dtype],
        *(x.data_ptr() for x in (k, v, w, u, a, b, p, y, *ends)),
        checkpoints.data_ptr() if keep else None,
        *(batch, time, channel),
        torch.get_num_threads(),
    )
    return y, *ends, checkpoints


def backward(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    checkpoints: Tensor,
    ends: tuple[Tensor, Tensor, Tensor],
    grad_y: Tensor | None,
    grad_ends: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of k, v, w, u, a, b, p."""
    batch, time, channel = k.shape
    given = [x.contiguous() for x in (k, v, w, u, checkpoints, *ends)]
    incoming = [None if x is None else x.contiguous() for x in (grad_y, *grad_ends)]
    grad_k, grad_v = torch.empty_like(given[0]), torch.empty_like(given[1])
    grad_w, grad_u, grad_a, grad_b, grad_p = (torch.empty_like(given[5]) for _ in range(5))
    _library().receptance_wkv4_backward(
        _TYPES[k.dtype],
        *(x.data_ptr() for x in given),
        *(None if x is None else x.data_ptr() for x in incoming),
        *(x.data_ptr() for x in (grad_k, grad_v, grad_w, grad_u, grad_a, grad_b, grad_p)),
        *(batch, time, channel),
        torch.get_num_threads(),
    )
    return grad_k, grad_v, grad_w.sum(0), grad_u.sum(0), grad_a, grad_b, grad_p


@cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    library.receptance_wkv4_forward.argtypes = [_INTEGER, *[_POINTER] * 12, *[_SIZE] * 3, _INTEGER]
    library.receptance_wkv4_forward.restype = None
    library.receptance_wkv4_backward.argtypes = [_INTEGER, *[_POINTER] * 19, *[_SIZE] * 3, _INTEGER]
    library.receptance_wkv4_backward.restype = None
    return library
