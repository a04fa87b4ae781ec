"""What the generations share: norms of higher precision than their input, and the token before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from receptance import kernels


@dataclass(frozen=True)
class Place:
    """Where a layer stands in the network, as the recipes of initialisation see it."""

    rising: float  # 0 in the first layer, 1 in the last
    falling: float  # 1 in the first layer, near 0 in the last
    depth: float  # 1 in the last layer, its share before
    channel: Tensor  # 0, 1, 2, …
    position: Tensor  # channel / channels
    spread: Tensor  # from 0 to 1 inclusive

    @classmethod
    def of(cls, layer: int, num_layers: int, channels: int) -> Place:
        """Return the place of a layer; the only layer of a network counts as the middle."""
        channel = torch.arange(channels)
        return cls(
            rising=layer / (num_layers - 1) if num_layers > 1 else 0.5,
            falling=1 - layer / num_layers,
            depth=(layer + 1) / num_layers,
            channel=channel,
            position=channel / channels,
            spread=channel / max(channels - 1, 1),
        )


def empty(*shape: int) -> nn.Parameter:
    """Return a parameter to be filled by `initialise` or by a checkpoint."""
    return nn.Parameter(torch.empty(shape))


class LayerNorm(nn.LayerNorm):
    """Layer norm whose parameters may be of higher precision than its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the channels."""
        return F.layer_norm(
            x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
        )


class MixingNorm(LayerNorm):
    """The norm that half a layer reads through, mixed with that of the token before."""

    def forward(  # type: ignore[override]  # it takes more than the norm that it is
        self, x: Tensor, shift: Tensor, shares: Tensor
    ) -> tuple[Tensor, ...]:
        """Return what `kernels.norm_mix` does."""
        return kernels.norm_mix(x, self.weight, self.bias, shift.to(x.dtype), shares, self.eps)


def stacked(*shares: Float[Tensor, " channel"]) -> Float[Tensor, "mix channel"]:
    """Return shares one below the other, in float32 at least."""
    rows = torch.stack(shares)
    return rows if rows.dtype == torch.float64 else rows.float()


class Half(nn.Module):
    """Half of a layer, which reads each token mixed with the one before in a few ways."""

    def shares(self) -> Float[Tensor, "mix channel"]:
        """Return the shares of the token before in the mixes that the half reads."""
        raise NotImplementedError


def last_token(
    x: Float[Tensor, "batch time channel"],
    shift: Float[Tensor, "batch channel"],
    lengths: Int[Tensor, " batch"] | None,
) -> Float[Tensor, "batch channel"]:
    """Return x at the last real token of each row; where there is none, what stood before the span."""
    if lengths is None:
        return x[:, -1]
    rows = torch.arange(len(x), device=x.device)
    last = x[rows, (lengths - 1).clamp_min(0)]
    return last.where(lengths.unsqueeze(1) > 0, shift.to(x.dtype))


def orthogonal(weight: Tensor, gain: float, generator: torch.Generator | None) -> None:
    """Fill a matrix `[out, in]` orthogonally; a widening one gets the gain sqrt(out / in) on top."""
    rows, columns = weight.shape
    nn.init.orthogonal_(weight, gain * math.sqrt(max(rows / columns, 1.0)), generator=generator)


class ChannelMix(Half):
    """The feed-forward half of a block in RWKV-4 and 5: squared ReLU, gated by the receptance."""

    def __init__(self, channel: int, wide: int) -> None:
        super().__init__()
        self.time_mix_k = empty(channel)
        self.time_mix_r = empty(channel)
        self.key = nn.Linear(channel, wide, bias=False)
        self.receptance = nn.Linear(channel, channel, bias=False)
        self.value = nn.Linear(wide, channel, bias=False)

    def shares(self) -> Float[Tensor, "mix channel"]:
        """Return those of the mixes that the forward pass takes, in their order."""
        return 1 - stacked(self.time_mix_k, self.time_mix_r)

    def forward(self, seen: tuple[Tensor, ...]) -> Tensor:
        """Return the block's change of x."""
        _, xk, xr = seen
        k, r = self.key(xk), self.receptance(xr)
        change: Tensor = torch.sigmoid(r) * self.value(torch.relu(k).square())
        return change
