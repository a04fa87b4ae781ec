"""The cross entropy in place, in torch operations: any device, any precision."""

from __future__ import annotations

import torch
from torch import Tensor

# Logits that are held in full precision at once: on a CPU, as many as its cache holds.
_PIECE, _PIECE_ON_A_CPU = 1 << 24, 1 << 20


def in_place(
    logits: Tensor, targets: Tensor, max_logit_weight: float, z_loss_weight: float, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the nll and the penalties of each token, and write the gradient over the logits."""
    piece = _PIECE_ON_A_CPU if logits.device.type == "cpu" else _PIECE
    rows = max(piece // logits.shape[1], 1)
    pieces = [
        _piece(x, t, max_logit_weight, z_loss_weight, gradient)
        for x, t in zip(torch.split(logits, rows), torch.split(targets.long(), rows), strict=True)
    ]
    nlls, penalties = zip(*pieces, strict=True)
    return torch.cat(nlls), torch.cat(penalties)


def _piece(
    logits: Tensor, targets: Tensor, max_logit_weight: float, z_loss_weight: float, gradient: bool
) -> tuple[Tensor, Tensor]:
    is_counted = targets >= 0
    target = targets.clamp_min(0)[:, None]
    x = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32, copy=True)
    top, peak = x.max(dim=1, keepdim=True)
    x -= top
    at_target = x.gather(1, target)
    total = x.exp_().sum(dim=1, keepdim=True)
    nll, z = total.log() - at_target, total.log() + top
    penalty = 0.5 * max_logit_weight * top.square() + z_loss_weight * z.square()
    if gradient:
        x *= (1 + 2 * z_loss_weight * z) / total
        x.scatter_add_(1, target, -torch.ones_like(top))
        x.scatter_add_(1, peak, max_logit_weight * top)
        logits.copy_(torch.where(is_counted[:, None], x, 0.0))
    return nll[:, 0].where(is_counted, 0.0), penalty[:, 0].where(is_counted, 0.0)
