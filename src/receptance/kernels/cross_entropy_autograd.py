"""The linear cross entropy as torch sees it: operators with a derivative, around a loss computed in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from receptance.errors import ConfigError, KernelError
from receptance.kernels import cross_entropy_native, cross_entropy_torch, dispatch

IGNORED = -100
_LARGEST_PIECE = 1 << 25  # logits held at once where no gradient is wanted

# From logits [token, vocabulary], targets, max_logit_weight and z_loss_weight: the nll and the penalties of
# each token, 0 where it is not counted. With `gradient`, that of the sum of the losses is
# written over the logits.
InPlace = Callable[[Tensor, Tensor, float, float, bool], tuple[Tensor, Tensor]]
IN_PLACE: dict[str, InPlace] = {
    "native": cross_entropy_native.in_place,
    "torch": cross_entropy_torch.in_place,
}


def call(
    name: str,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    max_logit_weight: float,
    z_loss_weight: float,
) -> tuple[Tensor, Tensor]:
    """Compute (loss, nll) by the implementation of this name; differentiable."""
    if type(hidden) is Tensor and not _is_differentiated(hidden, weight):
        loss, nll, _ = _forward(hidden, weight, targets, max_logit_weight, z_loss_weight, name, keep=False)
        return loss, nll
    return in_graph(name, hidden, weight, targets, max_logit_weight, z_loss_weight)


def in_graph(
    name: str | None,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    max_logit_weight: float,
    z_loss_weight: float,
) -> tuple[Tensor, Tensor]:
    """Do the same as one node of a graph. Without a name, it is chosen whenever the graph runs."""
    keep = _is_differentiated(hidden, weight)
    loss, nll, _ = torch.ops.receptance.linear_cross_entropy(
        hidden, weight, targets, max_logit_weight, z_loss_weight, name, keep
    )
    return loss, nll


def _is_differentiated(hidden: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)


def check_targets(targets: Tensor, vocabulary: int) -> None:
    """Raise ConfigError for a target that is neither an id nor -100; a GPU would have to wait for that."""
    if targets.device.type != "cpu" or targets.numel() == 0:
        return
    lowest, highest = torch.aminmax(targets)
    if highest < vocabulary and lowest >= 0:
        return
    wrong = ((targets < 0) & (targets != IGNORED)) | (targets >= vocabulary)
    if wrong.any():
        where = int(wrong.nonzero()[0])
        raise ConfigError(
            f"linear_cross_entropy: target {where} is {int(targets[where])}, but the vocabulary has ids 0 to "
            f"{vocabulary - 1}, and {IGNORED} for targets that do not count"
        )


def _forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    max_logit_weight: float,
    z_loss_weight: float,
    implementation: str | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if implementation is None:
        check_targets(targets, weight.shape[0])
        operator = dispatch.operator("linear_cross_entropy")
        implementation = operator.choose(hidden, weight, targets, max_logit_weight, z_loss_weight).name
    if implementation not in IN_PLACE:
        choice = ", ".join(IN_PLACE)
        raise KernelError(
            f"linear_cross_entropy: {implementation!r} cannot run inside a compiled graph; "
            f"ask for one of {choice}"
        )
    in_place = IN_PLACE[implementation]
    tokens, vocabulary = hidden.shape[0], weight.shape[0]
    piece = tokens if keep else max(_LARGEST_PIECE // vocabulary, 1)
    logits, nll, penalty = hidden.new_empty(0), _scalar(hidden), _scalar(hidden)
    for begin in range(0, tokens, max(piece, 1)):
        logits = F.linear(hidden[begin : begin + piece], weight)
        part = targets[begin : begin + piece]
        nlls, penalties = in_place(logits, part, max_logit_weight, z_loss_weight, keep)
        nll, penalty = nll + nlls.sum(), penalty + penalties.sum()
    count = _count(targets)
    return (nll + penalty) / count, nll / count, logits if keep else hidden.new_empty(0)


def _scalar(hidden: Tensor) -> Tensor:
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return torch.zeros((), dtype=dtype, device=hidden.device)


def _count(targets: Tensor) -> Tensor:
    return (targets != IGNORED).sum().clamp_min(1)


def _forward_shapes(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    max_logit_weight: float,
    z_loss_weight: float,
    implementation: str | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gradient = hidden.new_empty((hidden.shape[0], weight.shape[0]) if keep else 0)
    return _scalar(hidden), _scalar(hidden), gradient


def _backward(
    grad: Tensor,
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    to_hidden: bool,
    to_weight: bool,
) -> tuple[Tensor, Tensor]:
    scale = grad / _count(targets)  # put on the small operands, never on the large matrix
    grad_hidden = (gradient @ weight).mul_(scale) if to_hidden else hidden.new_empty(0)
    grad_weight = gradient.T @ (hidden * scale) if to_weight else weight.new_empty(0)
    return grad_hidden, grad_weight


def _backward_shapes(
    grad: Tensor,
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    to_hidden: bool,
    to_weight: bool,
) -> tuple[Tensor, Tensor]:
    grad_hidden = hidden.new_empty(hidden.shape if to_hidden else 0)
    return grad_hidden, weight.new_empty(weight.shape if to_weight else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # Any: as torch calls it
    hidden, weight, targets, *_, ctx.keep = inputs
    _, nll, gradient = output
    ctx.save_for_backward(gradient, hidden, weight, targets)
    ctx.mark_non_differentiable(nll, gradient)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:  # Any: as torch calls it
    if grad is None:
        return (None,) * 7
    if not ctx.keep:
        raise KernelError(
            "receptance::linear_cross_entropy was called with keep=False, so it cannot be differentiated"
        )
    needed = ctx.needs_input_grad[:2]
    grads = torch.ops.receptance.linear_cross_entropy_backward(grad, *ctx.saved_tensors, *needed)
    return *(x if needs else None for x, needs in zip(grads, needed, strict=True)), *(None,) * 5


def _differentiate_twice(*_: object) -> None:
    raise KernelError("linear_cross_entropy: only the implementation 'reference' has second derivatives")


torch.library.define(
    "receptance::linear_cross_entropy",
    "(Tensor hidden, Tensor weight, Tensor targets, float max_logit_weight, float z_loss_weight,"
    " str? implementation, bool keep) -> (Tensor loss, Tensor nll, Tensor gradient)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.impl("receptance::linear_cross_entropy", "default", _forward)
torch.library.register_fake("receptance::linear_cross_entropy", _forward_shapes)
torch.library.register_autograd("receptance::linear_cross_entropy", _differentiate, setup_context=_save)
torch.library.define(
    "receptance::linear_cross_entropy_backward",
    "(Tensor grad, Tensor gradient, Tensor hidden, Tensor weight, Tensor targets, bool to_hidden,"
    " bool to_weight) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.impl("receptance::linear_cross_entropy_backward", "default", _backward)
torch.library.register_fake("receptance::linear_cross_entropy_backward", _backward_shapes)
torch.library.register_autograd("receptance::linear_cross_entropy_backward", _differentiate_twice)
