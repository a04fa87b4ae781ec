"""The loss of a language model, taken from the hidden states so that full-precision logits never exist.

The logits are computed in the model's dtype and overwritten, row by row, with the gradient of the loss; going
back, that matrix is only multiplied with, never passed over again. The implementations: `native` (compiled,
for the CPU), `torch` (any device and precision), `reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError, KernelError
from receptance.kernels import cross_entropy_native, cross_entropy_torch
from receptance.kernels.dispatch import Implementation, Operator

IGNORED = -100
_LARGEST_PIECE = 1 << 25  # logits held at once where no gradient is wanted


def reference(
    hidden: Float[Tensor, "token channel"],
    weight: Float[Tensor, "vocabulary channel"],
    targets: Int[Tensor, " token"],
    max_logit_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return (loss to differentiate, negative log-likelihood alone), both means over the counted targets."""
    logits = F.linear(hidden, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    is_counted = targets != IGNORED
    count = is_counted.sum().clamp_min(1)
    nll = F.cross_entropy(logits, targets.long(), ignore_index=IGNORED, reduction="sum") / count
    penalty = 0.5 * max_logit_weight * logits[is_counted].amax(-1).square().sum() / count
    return nll + penalty, nll.detach()


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch channel"],
    weight: Float[Tensor, "vocabulary channel"],
    targets: Int[Tensor, "*batch"],
    max_logit_weight: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return (loss to differentiate, nll in nats per token without the penalty, detached).

    Both are means over the targets that are not -100; without any they are 0, and so are the gradients. The
    penalty is `max_logit_weight / 2 * mean(max_v logit^2)`, an ordinary part of the loss; the paper's recipe
    uses 1e-4. The logits take `token * vocabulary` numbers of hidden's dtype until the gradient is taken.

    Raises ConfigError when shapes or dtypes do not fit together, or a target is not below the vocabulary.
    """
    _check(hidden, weight, targets)
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    if torch.compiler.is_compiling():
        return _by_operator(None, hidden, weight, targets, max_logit_weight)
    _check_targets(targets, weight.shape[0])
    chosen = OPERATOR.choose(OPERATOR.requested(), hidden, weight, targets, max_logit_weight)
    return chosen.function(hidden, weight, targets, max_logit_weight)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    if weight.dim() != 2 or hidden.shape[-1:] != weight.shape[1:] or hidden.shape[:-1] != targets.shape:
        raise ConfigError(
            "linear_cross_entropy: needs hidden [*batch, channel], weight [vocabulary, channel] and targets "
            f"[*batch], got {tuple(hidden.shape)}, {tuple(weight.shape)} and {tuple(targets.shape)}"
        )
    if hidden.dtype != weight.dtype:
        raise ConfigError(
            f"linear_cross_entropy: hidden is {hidden.dtype} and weight {weight.dtype}; cast one to the other"
        )


def _check_targets(targets: Tensor, vocabulary: int) -> None:
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


# From logits [token, vocabulary], targets and max_logit_weight: the nll and the largest logit of each token,
# 0 where it is not counted. With `gradient`, the logits are overwritten with that of the sum of the losses.
_InPlace = Callable[[Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]
_IN_PLACE: dict[str, _InPlace] = {
    "native": cross_entropy_native.in_place,
    "torch": cross_entropy_torch.in_place,
}


def _by_name(
    name: str, hidden: Tensor, weight: Tensor, targets: Tensor, max_logit_weight: float
) -> tuple[Tensor, Tensor]:
    if type(hidden) is Tensor and not _is_differentiated(hidden, weight):
        loss, nll, _ = _forward(hidden, weight, targets, max_logit_weight, name, keep=False)
        return loss, nll
    return _by_operator(name, hidden, weight, targets, max_logit_weight)


def _by_operator(
    name: str | None, hidden: Tensor, weight: Tensor, targets: Tensor, max_logit_weight: float
) -> tuple[Tensor, Tensor]:
    keep = _is_differentiated(hidden, weight)
    loss, nll, _ = torch.ops.receptance.linear_cross_entropy(
        hidden, weight, targets, max_logit_weight, name, keep
    )
    return loss, nll


def _is_differentiated(hidden: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)


OPERATOR: Operator[Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]] = Operator(
    "linear_cross_entropy",
    (
        Implementation(
            "native",
            partial(_by_name, "native"),
            cross_entropy_native.refuses,
            missing=native.unavailable_reason,
        ),
        Implementation("torch", partial(_by_name, "torch")),
        Implementation("reference", reference),
    ),
)


# The torch operators; `implementation` as in wkv4.py.


def _forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    max_logit_weight: float,
    implementation: str | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if implementation is None:
        _check_targets(targets, weight.shape[0])
        implementation = OPERATOR.choose(OPERATOR.requested(), hidden, weight, targets, max_logit_weight).name
    if implementation not in _IN_PLACE:
        raise KernelError(
            f"linear_cross_entropy: {implementation!r} cannot run inside a compiled graph; "
            f"ask for one of {', '.join(_IN_PLACE)}"
        )
    in_place = _IN_PLACE[implementation]
    tokens, vocabulary = hidden.shape[0], weight.shape[0]
    piece = tokens if keep else max(_LARGEST_PIECE // vocabulary, 1)
    logits, nll, square = hidden.new_empty(0), _scalar(hidden), _scalar(hidden)
    for begin in range(0, tokens, max(piece, 1)):
        logits = F.linear(hidden[begin : begin + piece], weight)
        nlls, tops = in_place(logits, targets[begin : begin + piece], max_logit_weight, keep)
        nll, square = nll + nlls.sum(), square + tops.square().sum()
    count = _count(targets)
    nll, penalty = nll / count, 0.5 * max_logit_weight * (square / count)
    return nll + penalty, nll, logits if keep else hidden.new_empty(0)


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
    hidden, weight, targets, _, _, ctx.keep = inputs
    _, nll, gradient = output
    ctx.save_for_backward(gradient, hidden, weight, targets)
    ctx.mark_non_differentiable(nll, gradient)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:  # Any: as torch calls it
    if grad is None:
        return (None,) * 6
    if not ctx.keep:
        raise KernelError(
            "receptance::linear_cross_entropy was called with keep=False, so it cannot be differentiated"
        )
    needed = ctx.needs_input_grad[:2]
    grads = torch.ops.receptance.linear_cross_entropy_backward(grad, *ctx.saved_tensors, *needed)
    return *(x if needs else None for x, needs in zip(grads, needed, strict=True)), None, None, None, None


def _differentiate_twice(*_: object) -> None:
    raise KernelError("linear_cross_entropy: only the implementation 'reference' has second derivatives")


torch.library.define(
    "receptance::linear_cross_entropy",
    "(Tensor hidden, Tensor weight, Tensor targets, float max_logit_weight, str? implementation, bool keep)"
    " -> (Tensor loss, Tensor nll, Tensor gradient)",
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
