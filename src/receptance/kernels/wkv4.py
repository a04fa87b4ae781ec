"""WKV-4: the weighted mean of the past that RWKV-4 takes (arxiv.org/abs/2305.13048, eq. 16), in each channel.

    k key   v value   w decay a step, as a logarithm below zero   u bonus of the current token
    a numerator, b denominator of the past, both scaled by e^-p   p running maximum of the exponents

The implementations: `native` (compiled, for the CPU), `scan` (torch, any device and precision), `reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError, KernelError
from receptance.kernels import wkv4_native, wkv4_scan
from receptance.kernels.dispatch import Implementation, Operator

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
    """Return the weighted means y, in v's dtype, and the sums (a, b, p) after the span, `[batch, channel]`.

    Sums that hold nothing are a = b = 0 and p = -1e38 (any p far below every k). w, u and the sums are in
    float32, or in float64 for float64 results, whatever k and v are. Gradients flow to every argument, from y
    and from each of the sums.

    Raises ConfigError when shapes or dtypes do not fit together, and KernelError when `use` asks for an
    implementation that cannot serve the call.
    """
    a, b, p = sums
    _check(k, v, w, u, a, b, p)
    if torch.compiler.is_compiling():
        y, a, b, p, _ = torch.ops.receptance.wkv4(
            k, v, w, u, a, b, p, None, _is_differentiated(k, v, w, u, sums)
        )
        return y, (a, b, p)
    return OPERATOR.choose(OPERATOR.requested(), k, v, w, u, sums).function(k, v, w, u, sums)


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


class Passes(Protocol):
    """The two passes of an implementation; what one keeps for the way back, any other can read.

    `checkpoints` holds the sums before every block of 16 tokens, `[batch, block, 3, channel]` with the 3
    being a, b, p; without `keep` it is empty. A gradient that is None is zero.
    """

    def forward(
        self, k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return (y, a, b, p, checkpoints)."""
        ...

    def backward(
        self,
        k: Tensor,
        v: Tensor,
        w: Tensor,
        u: Tensor,
        checkpoints: Tensor,
        ends: Sums,
        grad_y: Tensor | None,
        grad_ends: tuple[Tensor | None, Tensor | None, Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of k, v, w, u, a, b, p."""
        ...


_PASSES: dict[str, Passes] = {"native": wkv4_native, "scan": wkv4_scan}


def _by_passes(name: str, k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: Sums) -> tuple[Tensor, Sums]:
    if type(k) is Tensor and not _is_differentiated(k, v, w, u, sums):
        # For a single token, the way through torch's dispatcher would cost more than the token.
        y, a, b, p, _ = _PASSES[name].forward(k, v, w, u, *sums, keep=False)
        return y, (a, b, p)
    return _by_operator(name, k, v, w, u, sums)


def _by_operator(
    name: str | None, k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: Sums
) -> tuple[Tensor, Sums]:
    keep = _is_differentiated(k, v, w, u, sums)
    y, a, b, p, _ = torch.ops.receptance.wkv4(k, v, w, u, *sums, name, keep)
    return y, (a, b, p)


def _is_differentiated(k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: Sums) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, w, u, *sums))


OPERATOR: Operator[Callable[[Tensor, Tensor, Tensor, Tensor, Sums], tuple[Tensor, Sums]]] = Operator(
    "wkv4",
    (
        Implementation(
            "native", partial(_by_passes, "native"), wkv4_native.refuses, missing=native.unavailable_reason
        ),
        Implementation("scan", partial(_by_passes, "scan")),
        Implementation("reference", reference),
    ),
)


# The torch operators. `implementation` names the passes to run; a compiled graph leaves it open, so that
# `use` counts where the graph runs and not where it was compiled.


def _passes(name: str | None, k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: Sums) -> Passes:
    if name is None:
        name = OPERATOR.choose(OPERATOR.requested(), k, v, w, u, sums).name
    if name not in _PASSES:
        choice = ", ".join(_PASSES)
        raise KernelError(f"wkv4: {name!r} cannot run inside a compiled graph; ask for one of {choice}")
    return _PASSES[name]


def _forward(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    a: Tensor,
    b: Tensor,
    p: Tensor,
    implementation: str | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _passes(implementation, k, v, w, u, (a, b, p)).forward(k, v, w, u, a, b, p, keep)


def _forward_shapes(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor, _: str | None, keep: bool
) -> tuple[Tensor, ...]:
    batch, time, channel = k.shape
    blocks = (time + wkv4_scan.BLOCK - 1) // wkv4_scan.BLOCK
    checkpoints = p.new_empty((batch, blocks, 3, channel) if keep else 0)
    return *(x.new_empty(x.shape) for x in (v, a, b, p)), checkpoints


def _backward(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    checkpoints: Tensor,
    a: Tensor,
    b: Tensor,
    p: Tensor,
    grad_y: Tensor | None,
    grad_a: Tensor | None,
    grad_b: Tensor | None,
    grad_p: Tensor | None,
    implementation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    passes = _passes(implementation, k, v, w, u, (a, b, p))
    return passes.backward(k, v, w, u, checkpoints, (a, b, p), grad_y, (grad_a, grad_b, grad_p))


def _backward_shapes(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, checkpoints: Tensor, *ends_and_more: Tensor
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (k, v, w, u, *ends_and_more[:3]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # Any: as torch calls it
    k, v, w, u, _, _, _, ctx.implementation, ctx.keep = inputs
    _, a, b, p, checkpoints = output
    ctx.save_for_backward(k, v, w, u, checkpoints, a, b, p)
    ctx.mark_non_differentiable(checkpoints)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # Any: as torch calls it
    if not ctx.keep:
        raise KernelError("receptance::wkv4 was called with keep=False, so it cannot be differentiated")
    given = torch.ops.receptance.wkv4_backward(*ctx.saved_tensors, *grads[:4], ctx.implementation)
    return *given, None, None


def _differentiate_twice(*_: object) -> None:
    raise KernelError("wkv4: only the implementation 'reference' has second derivatives")


torch.library.define(
    "receptance::wkv4",
    "(Tensor k, Tensor v, Tensor w, Tensor u, Tensor a, Tensor b, Tensor p, str? implementation, bool keep)"
    " -> (Tensor y, Tensor a_end, Tensor b_end, Tensor p_end, Tensor checkpoints)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.impl("receptance::wkv4", "default", _forward)
torch.library.register_fake("receptance::wkv4", _forward_shapes)
torch.library.register_autograd("receptance::wkv4", _differentiate, setup_context=_save)
torch.library.define(
    "receptance::wkv4_backward",
    "(Tensor k, Tensor v, Tensor w, Tensor u, Tensor checkpoints, Tensor a_end, Tensor b_end, Tensor p_end,"
    " Tensor? grad_y, Tensor? grad_a, Tensor? grad_b, Tensor? grad_p, str? implementation)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.impl("receptance::wkv4_backward", "default", _backward)
torch.library.register_fake("receptance::wkv4_backward", _backward_shapes)
torch.library.register_autograd("receptance::wkv4_backward", _differentiate_twice)
