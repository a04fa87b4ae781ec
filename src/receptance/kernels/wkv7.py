"""WKV-7: the generalised delta rule of RWKV-7 (arxiv.org/abs/2503.14456, eq. 17).

r receptance   k key   v value   w decay a step, as a logarithm below zero   a, b what is removed and put back
S state, one matrix [value, key] a head

S_t = S_{t-1} (diag(e^{w_t}) + a_t^T b_t) + v_t^T k_t        y_t = S_t r_t^T

The implementations: `native` (compiled, for the CPU), `chunked` (torch, any device and precision) and
`reference`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance import native
from receptance.kernels import wkv7_chunked
from receptance.kernels.matrix_chunked import MatrixChunked
from receptance.kernels.matrix_native import MatrixNative
from receptance.kernels.matrix_operator import MatrixOperator


def reference(
    r: Float[Tensor, "batch time head key"],
    w: Float[Tensor, "batch time head key"],
    k: Float[Tensor, "batch time head key"],
    v: Float[Tensor, "batch time head value"],
    a: Float[Tensor, "batch time head key"],
    b: Float[Tensor, "batch time head key"],
    state: Float[Tensor, "batch head value key"],
) -> tuple[Float[Tensor, "batch time head value"], Float[Tensor, "batch head value key"]]:
    """Step through time as the paper writes it. The oracle: any dtype, differentiable by autograd."""
    outputs = []
    steps = (x.to(state.dtype).unbind(1) for x in (r, w, k, v, a, b))
    for r_t, w_t, k_t, v_t, a_t, b_t in zip(*steps, strict=True):
        removed = (state @ a_t.unsqueeze(-1)) * b_t.unsqueeze(-2)
        state = state * torch.exp(w_t).unsqueeze(-2) + removed + v_t.unsqueeze(-1) * k_t.unsqueeze(-2)
        outputs.append((state @ r_t.unsqueeze(-1)).squeeze(-1))
    return torch.stack(outputs, dim=1).to(v.dtype), state


def wkv7(
    r: Float[Tensor, "batch time head key"],
    w: Float[Tensor, "batch time head key"],
    k: Float[Tensor, "batch time head key"],
    v: Float[Tensor, "batch time head value"],
    a: Float[Tensor, "batch time head key"],
    b: Float[Tensor, "batch time head key"],
    state: Float[Tensor, "batch head value key"],
    lengths: Int[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, "batch time head value"], Float[Tensor, "batch head value key"]]:
    """Return what each token reads after its own change, in v's dtype, and the state after the span.

    w is at most 0; w, a, b and the state are in float32, or in float64 for float64 results, whatever r, k and
    v are. Gradients flow to every argument, from both results.

    With lengths, row b ends after its first `lengths[b]` tokens: its state is the one after them. Its y after
    them is finite and means nothing, and should get no gradient.

    Raises ConfigError when shapes or dtypes do not fit together, and KernelError when `use` asks for an
    implementation that cannot serve the call.
    """
    return _OPERATOR(r, w, k, v, a, b, state, lengths=lengths)


_INPUTS = "rwkvab"
_NATIVE = MatrixNative("wkv7", _INPUTS)
_OPERATOR = MatrixOperator(
    "wkv7",
    _INPUTS,
    "wka",
    {"native": _NATIVE, "chunked": MatrixChunked(_INPUTS, wkv7_chunked.forward, wkv7_chunked.backward)},
    {"native": (_NATIVE.refuses, native.unavailable_reason)},
    reference,
)
