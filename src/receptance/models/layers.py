"""What the generations share: norms of higher precision than their input, and the token before."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer norm whose parameters may be of higher precision than its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the channels."""
        return F.layer_norm(
            x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
        )


def previous_token(
    x: Float[Tensor, "batch time channel"], shift: Float[Tensor, "batch channel"]
) -> Float[Tensor, "batch time channel"]:
    """Return x one step late; the first step comes from the span before."""
    return torch.cat([shift.unsqueeze(1).to(x.dtype), x[:, :-1]], dim=1)


def orthogonal(weight: Tensor, gain: float, generator: torch.Generator | None) -> None:
    """Fill a matrix `[out, in]` orthogonally; a widening one gets the gain sqrt(out / in) on top."""
    rows, columns = weight.shape
    nn.init.orthogonal_(weight, gain * math.sqrt(max(rows / columns, 1.0)), generator=generator)
