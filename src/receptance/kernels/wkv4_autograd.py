"""WKV-4 as torch sees it: operators with a derivative, made of the two passes of an implementation."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from receptance.errors import KernelError
from receptance.kernels import dispatch, wkv4_native, wkv4_scan

Sums = tuple[Tensor, Tensor, Tensor]


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


PASSES: dict[str, Passes] = {"native": wkv4_native, "scan": wkv4_scan}


def call(name: str, k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: Sums) -> tuple[Tensor, Sums]:
    """Compute WKV-4 by the passes of this name; differentiable."""
    if type(k) is not Tensor or k.is_meta:
        return in_graph(name, k, v, w, u, sums)
    # Outside a graph, the way through torch's dispatcher takes longer than a short span does.
    if _is_differentiated(k, v, w, u, sums):
        y, a, b, p, _ = _Eager.apply(k, v, w, u, *sums, name, True)  # type: ignore[no-untyped-call]  # torch
    else:
        y, a, b, p, _ = PASSES[name].forward(k, v, w, u, *sums, keep=False)
    return y, (a, b, p)


def in_graph(name: str | None, k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: Sums) -> tuple[Tensor, Sums]:
    """Do the same as one node of a graph. Without a name, the passes are chosen whenever the graph runs."""
    keep = _is_differentiated(k, v, w, u, sums)
    y, a, b, p, _ = torch.ops.receptance.wkv4(k, v, w, u, *sums, name, keep)
    return y, (a, b, p)


def _is_differentiated(k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: Sums) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, w, u, *sums))


def _passes(name: str | None, k: Tensor, v: Tensor, w: Tensor, u: Tensor, sums: Sums) -> Passes:
    if name is None:
        name = dispatch.operator("wkv4").choose(k, v, w, u, sums).name
    if name not in PASSES:
        choice = ", ".join(PASSES)
        raise KernelError(f"wkv4: {name!r} cannot run inside a compiled graph; ask for one of {choice}")
    return PASSES[name]


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


class _Eager(torch.autograd.Function):
    """The operator without torch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:  # Any: as torch calls it
        outputs = _forward(*inputs)
        _save(ctx, inputs, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # Any: as torch calls it
        if torch.is_grad_enabled():  # for a second derivative; the operator says that there is none
            return _differentiate(ctx, *grads)
        k, v, w, u, checkpoints, a, b, p = ctx.saved_tensors
        passes, grad_y, grad_ends = PASSES[ctx.implementation], grads[0], (grads[1], grads[2], grads[3])
        return *passes.backward(k, v, w, u, checkpoints, (a, b, p), grad_y, grad_ends), None, None


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
