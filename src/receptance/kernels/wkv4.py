"""WKV-4: the weighted mean of the past that RWKV-4 takes, channel by channel (arxiv.org/abs/2305.13048, eq. 16).

k key   v value   w decay a step, as a logarithm below zero   u bonus of the current token
a numerator, b denominator of the past, both scaled by e^-p   p running maximum of the exponents
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Sums = tuple[Tensor, Tensor, Tensor]


def reference(
    k: Float[Tensor, "batch time channel"],
    v: Float[Tensor, "batch time channel"],
    w: Float[Tensor, " channel"],
    u: Float[Tensor, " channel"],
    sums: Sums,
) -> tuple[Float[Tensor, "batch time channel"], Sums]:
    """Step through time as the paper writes it. The oracle: any dtype, differentiable by autograd."""
    a, b, p = sums
    outputs = []
    for k_t, v_t in zip(k.to(p.dtype).unbind(1), v.to(p.dtype).unbind(1), strict=True):
        q = torch.maximum(p, u + k_t)
        past, present = torch.exp(p - q), torch.exp(u + k_t - q)
        outputs.append((past * a + present * v_t) / (past * b + present))
        q = torch.maximum(p + w, k_t)
        past, present = torch.exp(p + w - q), torch.exp(k_t - q)
        a, b, p = past * a + present * v_t, past * b + present, q
    return torch.stack(outputs, dim=1).to(v.dtype), (a, b, p)


def wkv4(
    k: Float[Tensor, "batch time channel"],
    v: Float[Tensor, "batch time channel"],
    w: Float[Tensor, " channel"],
    u: Float[Tensor, " channel"],
    sums: Sums,
) -> tuple[Float[Tensor, "batch time channel"], Sums]:
    """Return the weighted means y and the sums (a, b, p), each `[batch, channel]`, after the span."""
    return reference(k, v, w, u, sums)
