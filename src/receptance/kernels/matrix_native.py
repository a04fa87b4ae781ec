"""WKV-6 and WKV-7 in the native library: `native/wkv6.cpp` and `native/wkv7.cpp` tell how they compute."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from receptance import native
from receptance.errors import KernelError
from receptance.kernels.matrix_operator import BLOCK

_TYPES = {torch.float32: 0, torch.bfloat16: 1}  # as in native/table.h
_POINTERS = (
    *(
        "r",
        "k",
        "v",
        "w",
        "u",
        "a",
        "b",
        "state",
        "y",
        "state_end",
        "checkpoints",
        "grad_y",
        "grad_state_end",
    ),
    *("grad_r", "grad_k", "grad_v", "grad_w", "grad_u", "grad_a", "grad_b", "grad_state"),
)
_SIZES = ("batch", "time", "head", "key", "value")


class _MatrixRecurrence(ctypes.Structure):
    """The struct of that name in native/table.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("is_backward", ctypes.c_bool),
        ("value_first", ctypes.c_bool),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


@dataclass(frozen=True)
class MatrixNative:
    """The two passes of one operator."""

    name: str
    inputs: str  # one letter each, as in MatrixOperator; the state follows

    def refuses(self, *inputs: Tensor) -> str | None:
        """Say why the compiled kernel cannot serve this call, or None."""
        state = inputs[-1]
        narrow = [tensor.dtype for name, tensor in zip(self.inputs, inputs, strict=False) if name in "rkv"]
        if state.device.type != "cpu":
            return f"it runs on the CPU, and the tensors are on {state.device}"
        if narrow[0] not in _TYPES or any(dtype != narrow[0] for dtype in narrow):
            got = ", ".join(str(dtype) for dtype in narrow)
            return f"it takes r, k and v all in float32 or all in bfloat16, got {got}"
        if state.dtype != torch.float32:
            return f"it takes everything but r, k and v in float32, got {state.dtype}"
        return None

    def forward(self, inputs: tuple[Tensor, ...], keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return (y, state, checkpoints), as `Passes` has it."""
        given = self._by_name(inputs)
        batch, time, head, key = given["r"].shape
        blocks = (batch, head, -(-time // BLOCK), key, given["v"].shape[3])
        y, state_end = torch.empty_like(given["v"]), torch.empty_like(given["state"])
        checkpoints = state_end.new_empty(blocks if keep else 0)
        self._call(given, y=y, state_end=state_end, checkpoints=checkpoints if keep else None)
        return y, state_end, checkpoints

    def backward(
        self,
        inputs: tuple[Tensor, ...],
        checkpoints: Tensor,
        grad_y: Tensor | None,
        grad_state: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return the gradient of each input."""
        given = self._by_name(inputs)
        state, v = given["state"], given["v"]
        gradients = {
            f"grad_{name}": torch.empty_like(given[name], dtype=state.dtype)
            for name in self.inputs
            if name not in "uv"
        }
        gradients |= {"grad_v": torch.empty_like(v), "grad_state": torch.empty_like(state)}
        if "u" in given:
            gradients["grad_u"] = state.new_empty((state.shape[0], *given["u"].shape))
        self._call(
            given,
            checkpoints=checkpoints.contiguous(),
            grad_y=torch.zeros_like(v) if grad_y is None else grad_y.contiguous(),
            grad_state_end=None if grad_state is None else grad_state.contiguous(),
            **gradients,
        )
        if "u" in given:
            gradients["grad_u"] = gradients["grad_u"].sum(0)
        return tuple(gradients[f"grad_{name}"].to(tensor.dtype) for name, tensor in given.items())

    def _by_name(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        tensors = (tensor.contiguous() for tensor in inputs)
        return dict(zip((*self.inputs, "state"), tensors, strict=True))

    def _call(self, given: dict[str, Tensor], **more: Tensor | None) -> None:
        tensors = {name: tensor for name, tensor in (given | more).items() if tensor is not None}
        arguments = _MatrixRecurrence(
            type=_TYPES[given["r"].dtype],
            is_backward="grad_y" in more,
            value_first="u" not in given,
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            **dict(zip(_SIZES, (*given["r"].shape, given["v"].shape[3]), strict=True)),
        )
        function = getattr(_library(), f"receptance_{self.name}")
        function(ctypes.byref(arguments), torch.get_num_threads())


@cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    for name in ("receptance_wkv6", "receptance_wkv7"):
        function = getattr(library, name)
        function.argtypes = [ctypes.POINTER(_MatrixRecurrence), ctypes.c_int]
        function.restype = None
    return library
