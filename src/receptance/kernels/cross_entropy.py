"""The loss of a language model, taken from the hidden states so that full-precision logits never exist.

The logits are computed in the model's dtype and overwritten, row by row, with the gradient of the loss; going
back, that matrix is only multiplied with, never passed over again. The implementations: `native` (compiled,
for the CPU), `torch` (any device and precision), `reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError
from receptance.kernels import cross_entropy_autograd, cross_entropy_native
from receptance.kernels.cross_entropy_autograd import IGNORED, check_targets
from receptance.kernels.dispatch import Implementation, Operator


def reference(
    hidden: Float[Tensor, "token channel"],
    weight: Float[Tensor, "vocabulary channel"],
    targets: Int[Tensor, " token"],
    max_logit_weight: float,
    z_loss_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return (loss to differentiate, negative log-likelihood alone), both means over the counted targets."""
    logits = F.linear(hidden, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    is_counted = targets != IGNORED
    count = is_counted.sum().clamp_min(1)
    nll = F.cross_entropy(logits, targets.long(), ignore_index=IGNORED, reduction="sum") / count
    counted = logits[is_counted]
    penalty = 0.5 * max_logit_weight * counted.amax(-1).square().sum()
    penalty = penalty + z_loss_weight * counted.logsumexp(-1).square().sum()
    return nll + penalty / count, nll.detach()


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch channel"],
    weight: Float[Tensor, "vocabulary channel"],
    targets: Int[Tensor, "*batch"],
    max_logit_weight: float = 0.0,
    z_loss_weight: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return (loss to differentiate, nll in nats per token without the penalties, detached).

    Both are means over the targets that are not -100; without any they are 0, and so are the gradients. The
    penalties are ordinary parts of the loss: `max_logit_weight / 2 * mean(max_v logit^2)`, for which the
    published trainers take 1e-4, and `z_loss_weight * mean(log^2 sum_v e^logit)`, the z-loss of PaLM
    (arxiv.org/abs/2204.02311, section 5), which took 1e-4. The logits take `token * vocabulary` numbers of
    hidden's dtype until the gradient is taken.

    Raises ConfigError when shapes or dtypes do not fit together, or a target is not below the vocabulary.
    """
    _check(hidden, weight, targets)
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    if torch.compiler.is_compiling():
        return cross_entropy_autograd.in_graph(None, hidden, weight, targets, max_logit_weight, z_loss_weight)
    check_targets(targets, weight.shape[0])
    chosen = OPERATOR.choose(hidden, weight, targets, max_logit_weight, z_loss_weight)
    return chosen.function(hidden, weight, targets, max_logit_weight, z_loss_weight)


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


OPERATOR: Operator[Callable[[Tensor, Tensor, Tensor, float, float], tuple[Tensor, Tensor]]] = Operator(
    "linear_cross_entropy",
    (
        Implementation(
            "native",
            partial(cross_entropy_autograd.call, "native"),
            cross_entropy_native.refuses,
            missing=native.unavailable_reason,
        ),
        Implementation("torch", partial(cross_entropy_autograd.call, "torch")),
        Implementation("reference", reference),
    ),
)
