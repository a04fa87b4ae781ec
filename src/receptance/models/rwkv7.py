"""RWKV-7 "Goose": time mixing by a generalised delta rule (arxiv.org/abs/2503.14456, section 4).

r receptance   w decay   k key   v value   a how much of a key's old value is replaced   g gate
kappa the key by which old values are found and removed

S_t = S_{t-1} (diag(w_t) - kappa_t^T (a_t * kappa_t)) + v_t^T k_t        y_t = S_t r_t^T
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from receptance import kernels
from receptance.models.heads import HeadNorm, HeadsConfig, HeadsModel, HeadsState, initialise_heads
from receptance.models.interface import Block
from receptance.models.layers import Half, Place, empty, last_token, orthogonal, stacked


def low_rank(channel: int, rank: int) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Return what `x -> zero + f(x @ one) @ two` needs."""
    return empty(channel), empty(channel, rank), empty(rank, channel)


def rank(factor: float, channels: int) -> int:
    """Return a low rank that grows with the channels, in steps of 32: the rule of RWKV-LM for new models."""
    return max(32, 32 * round(factor * math.sqrt(channels) / 32))


@dataclass(frozen=True, kw_only=True)
class RWKV7Config(HeadsConfig):
    """The sizes of an RWKV-7; a rank of 0 follows the rule for new models."""

    generation: ClassVar[str] = "7"
    operator: ClassVar[str] = "wkv7"

    decay_rank: int = 0
    in_context_rank: int = 0
    value_rank: int = 0
    gate_rank: int = 0

    def __post_init__(self) -> None:
        """Fill in the ranks that follow from the hidden size."""
        rules = {"decay_rank": 2.5, "in_context_rank": 2.5, "value_rank": 1.7, "gate_rank": 5.0}
        for name, factor in rules.items():
            object.__setattr__(self, name, getattr(self, name) or rank(factor, self.hidden_size))
        super().__post_init__()

    @property
    def default_feed_forward_size(self) -> int:
        """Width of the feed-forward half in new models of the generation."""
        return 4 * self.hidden_size


class TimeMix(Half):
    """The recurrent half of a block: a memory that replaces what a key held before."""

    def __init__(self, config: RWKV7Config, layer: int) -> None:
        super().__init__()
        channel, heads, size = config.hidden_size, config.num_heads, config.head_size
        self.num_heads, self.head_size = heads, size
        self.x_r, self.x_w, self.x_k = empty(channel), empty(channel), empty(channel)
        self.x_v, self.x_a, self.x_g = empty(channel), empty(channel), empty(channel)
        self.w0, self.w1, self.w2 = low_rank(channel, config.decay_rank)
        self.a0, self.a1, self.a2 = low_rank(channel, config.in_context_rank)
        if layer > 0:  # the first layer's values are what the others mix theirs with
            self.v0, self.v1, self.v2 = low_rank(channel, config.value_rank)
        _, self.g1, self.g2 = low_rank(channel, config.gate_rank)
        self.k_k, self.k_a, self.r_k = empty(channel), empty(channel), empty(heads, size)
        self.receptance = nn.Linear(channel, channel, bias=False)
        self.key = nn.Linear(channel, channel, bias=False)
        self.value = nn.Linear(channel, channel, bias=False)
        self.output = nn.Linear(channel, channel, bias=False)
        self.ln_x = HeadNorm(config)

    def shares(self) -> Float[Tensor, "mix channel"]:
        """Return those of the mixes that the forward pass takes, in their order."""
        return stacked(self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)

    def forward(
        self, seen: tuple[Tensor, ...], state: Tensor, lengths: Tensor | None, first_value: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the block's change of x, the memory after it, and the first layer's values."""
        x, xr, xw, xk, xv, xa, xg = seen
        heads, dtype = (*x.shape[:2], self.num_heads, self.head_size), state.dtype

        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        w = self.log_decay(xw, dtype)
        a = torch.sigmoid(self.a0.to(x.dtype) + (xa @ self.a1) @ self.a2)
        g = torch.sigmoid(xg @ self.g1) @ self.g2
        if first_value is None:
            first_value = v
        else:
            v = torch.lerp(v, first_value, torch.sigmoid(self.v0.to(x.dtype) + (xv @ self.v1) @ self.v2))
        kappa = F.normalize((k * self.k_k.to(x.dtype)).view(heads).to(dtype), dim=-1, eps=1e-12)
        k = k * (1 + (a - 1) * self.k_a.to(x.dtype))

        r, k, v, a, w = (part.view(heads) for part in (r, k, v, a, w))
        y, state = kernels.wkv7(r, w, k, v, -kappa, kappa * a.to(dtype), state, lengths)
        bonus = (r * k * self.r_k.to(x.dtype)).sum(-1, keepdim=True) * v
        return self.output((self.ln_x(y) + bonus.flatten(-2)) * g), state, first_value

    def log_decay(self, xw: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the logarithm of the decay at each token, `[batch, time, channel]`, from its mix for w."""
        low_rank = torch.tanh(xw @ self.w1) @ self.w2
        return -math.exp(-0.5) * torch.sigmoid(self.w0.to(dtype) + low_rank.to(dtype))


class ChannelMix(Half):
    """The feed-forward half of a block: squared ReLU, without a gate."""

    def __init__(self, config: RWKV7Config) -> None:
        super().__init__()
        channel, wide = config.hidden_size, config.feed_forward_size
        self.x_k = empty(channel)
        self.key = nn.Linear(channel, wide, bias=False)
        self.value = nn.Linear(wide, channel, bias=False)

    def shares(self) -> Float[Tensor, "mix channel"]:
        """Return that of the one mix that the forward pass takes."""
        return stacked(self.x_k)

    def forward(self, seen: tuple[Tensor, ...]) -> Tensor:
        """Return the block's change of x."""
        k = self.key(seen[1])
        change: Tensor = self.value(torch.relu(k).square())
        return change


class RWKV7Block(Block):
    """One layer of RWKV-7."""

    att: TimeMix
    ffn: ChannelMix

    def __init__(self, config: RWKV7Config, layer: int) -> None:
        super().__init__(config.hidden_size, layer)
        self.att = TimeMix(config, layer)
        self.ffn = ChannelMix(config)

    def forward(  # type: ignore[override]  # the first layer's values travel beside the residual stream
        self, x: Tensor, state: tuple[Tensor, ...], lengths: Tensor | None, first_value: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Return the residual stream after the layer, the layer's state, and the first layer's values."""
        time_shift, channel_shift, memory = state
        seen = self.ln1(x, time_shift, self.att.shares())
        change, memory, first_value = self.att(seen, memory, lengths, first_value)
        x = self.dropped(x + change)
        seen_by_channels = self.ln2(x, channel_shift, self.ffn.shares())
        x = self.dropped(x + self.ffn(seen_by_channels))
        time_shift = last_token(seen[0], time_shift, lengths)
        channel_shift = last_token(seen_by_channels[0], channel_shift, lengths)
        return x, (time_shift, channel_shift, memory), first_value

    def initialise(self, layer: int, num_layers: int, generator: torch.Generator | None) -> None:
        """Fill the layer with the starting values of RWKV-LM's x070 trainer: it adds exactly nothing."""
        att, ffn = self.att, self.ffn
        place = Place.of(layer, num_layers, len(att.x_r))
        powers = {"x_r": 0.2, "x_w": 0.9, "x_k": 0.7, "x_v": 0.7, "x_a": 0.9, "x_g": 0.2}
        for name, power in powers.items():
            att.get_parameter(name).copy_(1 - place.position ** (power * place.falling))
        ffn.x_k.copy_(1 - place.position ** (place.falling**4))
        size = att.head_size
        across = (place.channel % size - (size - 1) / 2) / max((size - 1) / 2, 0.5)
        zigzag, slope = across * across.abs(), place.spread - 0.5
        att.w0.copy_(-6 + 6 * place.spread ** (1 + place.rising**0.3) + 0.5 + 2.5 * zigzag)
        att.a0.copy_(-0.19 + 0.3 * zigzag + 0.4 * slope)
        att.k_k.copy_(0.71 - 0.1 * slope)
        att.k_a.fill_(1.02)
        att.r_k.fill_(-0.04)
        if layer > 0:
            att.v0.copy_(0.73 - 0.4 * slope)
        for name in ("w", "a", "g", "v") if layer > 0 else ("w", "a", "g"):
            att.get_parameter(f"{name}1").zero_()
            orthogonal(att.get_parameter(f"{name}2"), 0.1, generator)
        initialise_heads(att, place, generator)
        nn.init.orthogonal_(ffn.key.weight, 1.0, generator=generator)
        ffn.value.weight.zero_()


class RWKV7(HeadsModel[RWKV7Config]):
    """RWKV-7 as a torch module, initialised for training from scratch (or empty on the meta device)."""

    vectors_by_head = frozenset({"r_k"})

    def __init__(self, config: RWKV7Config) -> None:
        super().__init__(config, (RWKV7Block(config, layer) for layer in range(config.num_layers)))

    def through_blocks(
        self, x: Float[Tensor, "batch time channel"], state: HeadsState, lengths: Int[Tensor, " batch"] | None
    ) -> tuple[Float[Tensor, "batch time channel"], HeadsState]:
        """Return the residual stream after all layers, and the state after them."""
        ends, first_value = [], None
        for block, *start in zip(self.layers, *state.tensors().values(), strict=True):
            x, end, first_value = block(x, tuple(start), lengths, first_value)
            ends.append(end)
        return x, state.after(ends)
