"""What both halves of a layer read: the layer norm of each token, and its mixes with the token before.

The implementations: `native` (compiled, for the CPU), which passes over memory once each way, `reference`.
Inside `torch.compile` the reference is traced, and the compiler fuses it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError
from receptance.kernels import norm_mix_native
from receptance.kernels.dispatch import Implementation, Operator


def reference(
    x: Float[Tensor, "batch time channel"],
    weight: Float[Tensor, " channel"],
    bias: Float[Tensor, " channel"],
    shift: Float[Tensor, "batch channel"],
    shares: Float[Tensor, "mix channel"],
    epsilon: float,
) -> tuple[Tensor, ...]:
    """Return (seen, each mix of it with the token before)."""
    seen = F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), epsilon)
    past = torch.cat([shift.unsqueeze(1).to(x.dtype), seen[:, :-1]], dim=1)
    return seen, *(torch.lerp(seen, past, share) for share in shares.to(x.dtype).unbind())


def norm_mix(
    x: Float[Tensor, "batch time channel"],
    weight: Float[Tensor, " channel"],
    bias: Float[Tensor, " channel"],
    shift: Float[Tensor, "batch channel"],
    shares: Float[Tensor, "mix channel"],
    epsilon: float,
) -> tuple[Float[Tensor, "batch time channel"], ...]:
    """Return (seen, mixed, mixed, …): the layer norm of x, and a mix for each row of shares, in x's dtype.

    `mixed_t = seen_t + share (seen_{t-1} - seen_t)`: the shares are those of the token before, in every
    generation, and may lie outside 0 to 1. `shift` is `seen` of the token before the first. Gradients flow to
    every tensor. x and shift need one dtype; the others may be more precise.

    Raises ConfigError when shapes do not fit together, and KernelError when `use` asks for an implementation
    that cannot serve the call.
    """
    batch, time, channel = x.shape
    if not (
        weight.shape == bias.shape == (channel,)
        and shift.shape == (batch, channel)
        and shares.dim() == 2
        and len(shares) > 0
        and shares.shape[1] == channel
        and time > 0
    ):
        got = ", ".join(str(tuple(tensor.shape)) for tensor in (weight, bias, shift, shares))
        raise ConfigError(
            f"norm_mix: x of shape {tuple(x.shape)} needs at least one token, weight and bias ({channel},), "
            f"shift ({batch}, {channel}) and shares (mixes, {channel}); got {got}"
        )
    if torch.compiler.is_compiling():
        return reference(x, weight, bias, shift, shares, epsilon)
    chosen = OPERATOR.choose(x, weight, bias, shift, shares, epsilon)
    return chosen.function(x, weight, bias, shift, shares, epsilon)


OPERATOR: Operator[Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, ...]]] = Operator(
    "norm_mix",
    (
        Implementation(
            "native",
            norm_mix_native.norm_mix,
            norm_mix_native.refuses,
            missing=native.unavailable_reason,
        ),
        Implementation("reference", reference),
    ),
)
