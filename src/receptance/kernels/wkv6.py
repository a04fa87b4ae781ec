"""WKV-6: the matrix-valued state of RWKV-5 and 6, decayed by key channel (arxiv.org/abs/2404.05892, eq. 19).

r receptance   k key   v value   w decay a step, as a logarithm below zero   u bonus of the current token
S state, one matrix [key, value] a head, which sums k^T v over the past

y_t = r_t (diag(u) k_t^T v_t + S_{t-1})        S_t = diag(e^{w_t}) S_{t-1} + k_t^T v_t

The implementations: `native` (compiled, for the CPU), `chunked` (torch, any device and precision) and
`reference`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance import native
from receptance.kernels import wkv6_chunked
from receptance.kernels.matrix_chunked import MatrixChunked
from receptance.kernels.matrix_native import MatrixNative
from receptance.kernels.matrix_operator import MatrixOperator


def reference(
    r: Float[Tensor, "batch time head key"],
    k: Float[Tensor, "batch time head key"],
    v: Float[Tensor, "batch time head value"],
    w: Float[Tensor, "batch time head key"],
    u: Float[Tensor, "head key"],
    state: Float[Tensor, "batch head key value"],
) -> tuple[Float[Tensor, "batch time head value"], Float[Tensor, "batch head key value"]]:
    """Step through time as the paper writes it. The oracle: any dtype, differentiable by autograd."""
    outputs = []
    steps = (x.to(state.dtype).unbind(1) for x in (r, k, v, w))
    for r_t, k_t, v_t, w_t in zip(*steps, strict=True):
        now = k_t.unsqueeze(-1) * v_t.unsqueeze(-2)
        outputs.append((r_t.unsqueeze(-2) @ (u.unsqueeze(-1) * now + state)).squeeze(-2))
        state = torch.exp(w_t).unsqueeze(-1) * state + now
    return torch.stack(outputs, dim=1).to(v.dtype), state


def wkv6(
    r: Float[Tensor, "batch time head key"],
    k: Float[Tensor, "batch time head key"],
    v: Float[Tensor, "batch time head value"],
    w: Float[Tensor, "batch time head key"],
    u: Float[Tensor, "head key"],
    state: Float[Tensor, "batch head key value"],
    lengths: Int[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, "batch time head value"], Float[Tensor, "batch head key value"]]:
    """Return what each token reads, in v's dtype, and the state after the span.

    w is at most 0; w, u and the state are in float32, or in float64 for float64 results, whatever r, k and v
    are. Gradients flow to every argument, from both results.

    With lengths, row b ends after its first `lengths[b]` tokens: its state is the one after them. Its y after
    them is finite and means nothing, and should get no gradient.

    Raises ConfigError when shapes or dtypes do not fit together, and KernelError when `use` asks for an
    implementation that cannot serve the call.
    """
    return _OPERATOR(r, k, v, w, u, state, lengths=lengths)


_INPUTS = "rkvwu"
_NATIVE = MatrixNative("wkv6", _INPUTS)
_OPERATOR = MatrixOperator(
    "wkv6",
    _INPUTS,
    "kw",
    {"native": _NATIVE, "chunked": MatrixChunked(_INPUTS, wkv6_chunked.forward, wkv6_chunked.backward)},
    {"native": (_NATIVE.refuses, native.unavailable_reason)},
    reference,
)
