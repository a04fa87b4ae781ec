"""WKV-6: the matrix-valued state of RWKV-5 and 6, decayed by key channel (arxiv.org/abs/2404.05892, eq. 19).

r receptance   k key   v value   w decay a step, as a logarithm below zero   u bonus of the current token
S state, one matrix [key, value] a head, which sums k^T v over the past

y_t = r_t (diag(u) k_t^T v_t + S_{t-1})        S_t = diag(e^{w_t}) S_{t-1} + k_t^T v_t
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


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
) -> tuple[Float[Tensor, "batch time head value"], Float[Tensor, "batch head key value"]]:
    """Return what each token reads, and the state after the span."""
    return reference(r, k, v, w, u, state)
