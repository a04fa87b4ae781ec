"""The layer norm with its mixes in the native library: `native/norm_mix.cpp` tells how it computes."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from receptance import native
from receptance.errors import KernelError

_TYPES = {torch.float32: 0, torch.bfloat16: 1}  # as in native/table.h
_MOST_MIXES = 6  # NORM_MIX_MOST there


class _NormMix(ctypes.Structure):
    """The struct NormMix in native/table.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("is_backward", ctypes.c_bool),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "shift", "shares", "seen", "mixed")),
        *((name, ctypes.c_void_p) for name in ("mean", "scale", "grad_seen", "grad_mixed", "grad_x")),
        *((name, ctypes.c_void_p) for name in ("grad_shift", "grad_sums")),
        *((name, ctypes.c_int64) for name in ("batch", "time", "channel", "mixes")),
        ("epsilon", ctypes.c_float),
    )


def refuses(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor, shares: Tensor, epsilon: float
) -> str | None:
    """Say why the compiled kernel cannot serve this call, or None."""
    if x.device.type not in ("cpu", "meta"):
        return f"it runs on the CPU, and the tensors are on {x.device}"
    devices = {tensor.device for tensor in (x, weight, bias, shift, shares)}
    if len(devices) > 1:
        return f"its tensors are on several devices: {', '.join(sorted(map(str, devices)))}"
    if x.dtype not in _TYPES:
        return f"it takes x in float32 and bfloat16, got {x.dtype}"
    if type(x) is not Tensor:
        return f"it takes plain tensors, got {type(x).__name__}"
    if len(shares) > _MOST_MIXES:
        return f"it makes at most {_MOST_MIXES} mixes, got {len(shares)}"
    return None


def norm_mix(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor, shares: Tensor, epsilon: float
) -> tuple[Tensor, ...]:
    """Do what the contract says; differentiable."""
    vectors = (weight.float(), bias.float(), shift.to(x.dtype), shares.float())
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *vectors)):
        outputs: tuple[Tensor, ...] = _Differentiable.apply(x, *vectors, epsilon)  # type: ignore[no-untyped-call]  # torch
        return outputs
    return _forward(x, *vectors, epsilon)[:-1]


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor, shares: Tensor, epsilon: float
) -> tuple[Tensor, ...]:
    """Return (seen, each mix, the mean and the scale of each token in one tensor)."""
    given = [tensor.contiguous() for tensor in (x, weight, bias, shift, shares)]
    outputs = [torch.empty_like(given[0]) for _ in range(1 + len(shares))]
    moments = torch.empty(2, *x.shape[:2], dtype=torch.float32, device=x.device)
    pointers = _pointers(outputs[1:])
    _call(given, epsilon, moments, seen=outputs[0].data_ptr(), mixed=ctypes.addressof(pointers))
    return *outputs, moments


def _backward(
    given: list[Tensor], epsilon: float, moments: Tensor, grad_seen: Tensor | None, grad_mixed: list[Tensor]
) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight, bias, shift and shares."""
    x, _, _, shift, _ = given
    batch, time, channel = x.shape
    blocks = -(-time // _library().receptance_norm_mix_block())
    grad_x, grad_shift = torch.empty_like(x), torch.empty_like(shift)
    sums = x.new_empty(batch * blocks, 2 + len(grad_mixed), channel, dtype=torch.float32)
    pointers = _pointers(grad_mixed)
    _call(
        given,
        epsilon,
        moments,
        is_backward=True,
        grad_seen=None if grad_seen is None else grad_seen.data_ptr(),
        grad_mixed=ctypes.addressof(pointers),
        grad_x=grad_x.data_ptr(),
        grad_shift=grad_shift.data_ptr(),
        grad_sums=sums.data_ptr(),
    )
    grad_vectors = sums.sum(0)
    return grad_x, grad_vectors[0], grad_vectors[1], grad_shift, grad_vectors[2:]


class _Differentiable(torch.autograd.Function):
    """Both passes as one step of autograd."""

    @staticmethod
    def forward(
        ctx: Any,  # as torch calls it
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor,
        shares: Tensor,
        epsilon: float,
    ) -> tuple[Tensor, ...]:
        *outputs, moments = _forward(x, weight, bias, shift, shares, epsilon)
        ctx.save_for_backward(x, weight, bias, shift, shares, moments)
        ctx.epsilon = epsilon
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # Any: as torch calls it
        if torch.is_grad_enabled():
            raise KernelError("norm_mix: only the implementation 'reference' has second derivatives")
        *tensors, moments = ctx.saved_tensors
        given = [tensor.contiguous() for tensor in tensors]
        grad_seen, *rest = (grad if grad is None else grad.contiguous() for grad in grads)
        grad_mixed = [torch.zeros_like(given[0]) if grad is None else grad for grad in rest]
        return *_backward(given, ctx.epsilon, moments, grad_seen, grad_mixed), None


def _pointers(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _call(given: list[Tensor], epsilon: float, moments: Tensor, **more: int | None) -> None:
    if moments.is_meta:
        return  # there is nothing to be computed
    names = ("x", "weight", "bias", "shift", "shares")
    batch, time, channel = given[0].shape
    arguments = _NormMix(
        type=_TYPES[given[0].dtype],
        **{name: tensor.data_ptr() for name, tensor in zip(names, given, strict=True)},
        mean=moments[0].data_ptr(),
        scale=moments[1].data_ptr(),
        batch=batch,
        time=time,
        channel=channel,
        mixes=len(given[4]),
        epsilon=epsilon,
        **more,
    )
    _library().receptance_norm_mix(ctypes.byref(arguments), torch.get_num_threads())


@cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    library.receptance_norm_mix.argtypes = [ctypes.POINTER(_NormMix), ctypes.c_int]
    library.receptance_norm_mix.restype = None
    return library
