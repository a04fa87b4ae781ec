"""The loss of a language model, taken from the hidden states so that full-precision logits never exist."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100


def reference(
    hidden: Float[Tensor, "token channel"],
    weight: Float[Tensor, "vocabulary channel"],
    targets: Int[Tensor, " token"],
    max_logit_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return (loss to differentiate, negative log-likelihood alone), both means over the counted targets."""
    logits = F.linear(hidden, weight)
    logits = logits.double() if logits.dtype == torch.float64 else logits.float()
    nll = F.cross_entropy(logits, targets, ignore_index=IGNORED)
    counted = logits[targets != IGNORED]
    penalty = 0.5 * max_logit_weight * counted.amax(-1).square().mean()
    return nll + penalty, nll.detach()


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch channel"],
    weight: Float[Tensor, "vocabulary channel"],
    targets: Int[Tensor, "*batch"],
    max_logit_weight: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return (loss to differentiate, nll in nats per token without the penalty, detached).

    The penalty is `max_logit_weight / 2 * mean(max_v logit^2)`; the paper's recipe uses 1e-4.
    """
    return reference(hidden.flatten(0, -2), weight, targets.flatten(), max_logit_weight)
