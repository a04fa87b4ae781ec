"""WKV-4: the weighted mean of the past that RWKV-4 takes (arxiv.org/abs/2305.13048, eq. 16), in each channel.

    k key   v value   w decay a step, as a logarithm below zero   u bonus of the current token
    a numerator, b denominator of the past, both scaled by e^-p   p running maximum of the exponents

The implementations: `native` (compiled, for the CPU), `scan` (torch, any device and precision), `reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError
from receptance.kernels import wkv4_autograd, wkv4_native
from receptance.kernels.dispatch import Implementation, Operator
from receptance.kernels.lengths import check_lengths, is_padding

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
    lengths: Int[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, "batch time channel"], Sums]:
    """Return the weighted means y, in v's dtype, and the sums (a, b, p) after the span, `[batch, channel]`.

    Sums that hold nothing are a = b = 0 and p = -1e38 (any p far below every k). w, u and the sums are in
    float32, or in float64 for float64 results, whatever k and v are. Gradients flow to every argument, from y
    and from each of the sums.

    With lengths, row b ends after its first `lengths[b]` tokens: its sums are those after them. Its y after
    them is finite and means nothing, and should get no gradient.

    Raises ConfigError when shapes or dtypes do not fit together, and KernelError when `use` asks for an
    implementation that cannot serve the call.
    """
    a, b, p = sums
    _check(k, v, w, u, a, b, p)
    if torch.compiler.is_compiling():
        y, ends = wkv4_autograd.in_graph(None, k, v, w, u, sums)
    else:
        y, ends = OPERATOR.choose(k, v, w, u, sums).function(k, v, w, u, sums)
    return y, ends if lengths is None else _sums_after(lengths, k, v, w, sums)


def _sums_after(lengths: Tensor, k: Tensor, v: Tensor, w: Tensor, sums: Sums) -> Sums:
    """Return the sums after the first tokens of each row, written out over all of these tokens.

    The decay is the same at every token, so none can be made to leave the sums as they are.
    """
    a, b, p = sums
    batch, time, _ = k.shape
    check_lengths(lengths, batch, time)
    padding = is_padding(lengths, time)[..., None]
    count = lengths.to(p.dtype)[:, None]
    age = count - 1 - torch.arange(time, dtype=p.dtype, device=p.device)
    exponents = (k.to(p.dtype) + age[..., None] * w).masked_fill(padding, -torch.inf)
    faded = p + count * w
    p_end = torch.maximum(faded, exponents.amax(1))
    # Many processors take long for an exponential that is too small for a normal number.
    least = 1 + math.log(torch.finfo(p.dtype).tiny)
    weights = torch.exp((exponents - p_end[:, None]).clamp_min(least)).masked_fill(padding, 0.0)
    past = torch.exp(faded - p_end)
    return past * a + (weights * v.to(p.dtype)).sum(1), past * b + weights.sum(1), p_end


def _check(k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor) -> None:
    if k.dim() != 3 or k.shape != v.shape or k.shape[1] == 0:
        raise ConfigError(
            "wkv4: k and v need one shape [batch, time, channel] with at least one token, "
            f"got {tuple(k.shape)} and {tuple(v.shape)}"
        )
    batch, _, channel = k.shape
    if not (w.shape == u.shape == (channel,) and a.shape == b.shape == p.shape == (batch, channel)):
        got = ", ".join(str(tuple(x.shape)) for x in (w, u, a, b, p))
        raise ConfigError(
            f"wkv4: for k of shape {tuple(k.shape)}, w and u need ({channel},) and the sums "
            f"({batch}, {channel}); got {got}"
        )
    if p.dtype not in (torch.float32, torch.float64) or any(x.dtype != p.dtype for x in (w, u, a, b)):
        got = ", ".join(str(x.dtype) for x in (w, u, a, b, p))
        raise ConfigError(f"wkv4: w, u and the sums need one dtype, float32 or float64; got {got}")


OPERATOR: Operator[Callable[[Tensor, Tensor, Tensor, Tensor, Sums], tuple[Tensor, Sums]]] = Operator(
    "wkv4",
    (
        Implementation(
            "native",
            partial(wkv4_autograd.call, "native"),
            wkv4_native.refuses,
            missing=native.unavailable_reason,
        ),
        Implementation("scan", partial(wkv4_autograd.call, "scan")),
        Implementation("reference", reference),
    ),
)
