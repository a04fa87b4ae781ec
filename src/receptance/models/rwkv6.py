"""RWKV-6 "Finch": mixes and decays that depend on the data (arxiv.org/abs/2404.05892, section 3.2).

    r receptance   w decay   k key   v value   g gate   u bonus of the current token
    mu share of the previous token in a mix

    y_t = r_t (diag(u) k_t^T v_t + S_{t-1})        S_t = diag(w_t) S_{t-1} + k_t^T v_t

Unlike in RWKV-4 and 5, the mixes multiply the *previous* token: mu = 0 means the current one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from receptance import kernels
from receptance.models.heads import HeadNorm, HeadsConfig, HeadsModel, initialise_heads
from receptance.models.interface import Block
from receptance.models.layers import Half, Place, empty, stacked


@dataclass(frozen=True, kw_only=True)
class RWKV6Config(HeadsConfig):
    """The sizes of an RWKV-6; published models of hidden size 4096 have twice the ranks."""

    generation: ClassVar[str] = "6"
    operator: ClassVar[str] = "wkv6"

    mix_rank: int = 32
    decay_rank: int = 64


class TimeMix(Half):
    """The recurrent half of a block: a decayed sum of key-value pairs, read by the receptance."""

    def __init__(self, config: RWKV6Config) -> None:
        super().__init__()
        channel, heads, size = config.hidden_size, config.num_heads, config.head_size
        self.num_heads, self.head_size = heads, size
        self.time_maa_x = empty(channel)
        self.time_maa_w = empty(channel)
        self.time_maa_k = empty(channel)
        self.time_maa_v = empty(channel)
        self.time_maa_r = empty(channel)
        self.time_maa_g = empty(channel)
        self.time_maa_w1 = empty(channel, 5 * config.mix_rank)
        self.time_maa_w2 = empty(5, config.mix_rank, channel)
        self.time_decay = empty(channel)
        self.time_decay_w1 = empty(channel, config.decay_rank)
        self.time_decay_w2 = empty(config.decay_rank, channel)
        self.time_faaaa = empty(heads, size)
        self.receptance = nn.Linear(channel, channel, bias=False)
        self.key = nn.Linear(channel, channel, bias=False)
        self.value = nn.Linear(channel, channel, bias=False)
        self.gate = nn.Linear(channel, channel, bias=False)
        self.output = nn.Linear(channel, channel, bias=False)
        self.ln_x = HeadNorm(config)

    def shares(self) -> Float[Tensor, "mix channel"]:
        """Return that of the mix which the others depend on, and that of the token before in itself."""
        return stacked(self.time_maa_x, torch.ones_like(self.time_maa_x))

    def forward(
        self, seen: tuple[Tensor, ...], state: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor]]:
        """Return the block's change of x, and the memory after it."""
        xw, xk, xv, xr, xg = self.mixes(*seen)
        heads = (*xr.shape[:2], self.num_heads, self.head_size)
        r = self.receptance(xr).view(heads)
        k = self.key(xk).view(heads)
        v = self.value(xv).view(heads)
        w = self.log_decay(xw, state.dtype).view(heads)
        y, state = kernels.wkv6(r, k, v, w, self.time_faaaa.to(state.dtype), state, lengths)
        return self.output(self.ln_x(y) * nn.functional.silu(self.gate(xg))), (state,)

    def log_decay(self, xw: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the logarithm of the decay at each token, `[batch, time, channel]`, from its mix for w."""
        low_rank = torch.tanh(xw @ self.time_decay_w1) @ self.time_decay_w2
        return -torch.exp(self.time_decay.to(dtype) + low_rank.to(dtype))

    def mixes(self, x: Tensor, both: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """Return x mixed with the token before for w, k, v, r and g, by shares that depend on both."""
        difference = past - x
        low_rank = torch.tanh(both @ self.time_maa_w1).reshape(*x.shape[:2], 5, -1)
        shares = torch.einsum("btnd,ndc->nbtc", low_rank, self.time_maa_w2)
        means = (self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g)
        return tuple(
            x + difference * (mu.to(x.dtype) + share) for mu, share in zip(means, shares, strict=True)
        )


class ChannelMix(Half):
    """The feed-forward half of a block: squared ReLU, gated by the receptance."""

    def __init__(self, config: RWKV6Config) -> None:
        super().__init__()
        channel, wide = config.hidden_size, config.feed_forward_size
        self.time_maa_k = empty(channel)
        self.time_maa_r = empty(channel)
        self.key = nn.Linear(channel, wide, bias=False)
        self.receptance = nn.Linear(channel, channel, bias=False)
        self.value = nn.Linear(wide, channel, bias=False)

    def shares(self) -> Float[Tensor, "mix channel"]:
        """Return those of the mixes that the forward pass takes, in their order."""
        return stacked(self.time_maa_k, self.time_maa_r)

    def forward(self, seen: tuple[Tensor, ...]) -> Tensor:
        """Return the block's change of x."""
        _, xk, xr = seen
        k, r = self.key(xk), self.receptance(xr)
        change: Tensor = torch.sigmoid(r) * self.value(torch.relu(k).square())
        return change


class RWKV6Block(Block):
    """One layer of RWKV-6."""

    att: TimeMix
    ffn: ChannelMix

    def __init__(self, config: RWKV6Config, layer: int) -> None:
        super().__init__(config.hidden_size, layer)
        self.att = TimeMix(config)
        self.ffn = ChannelMix(config)

    def initialise(self, layer: int, num_layers: int, generator: torch.Generator | None) -> None:
        """Fill the layer with the starting values of RWKV-LM's x060 trainer: it adds exactly nothing."""
        place = Place.of(layer, num_layers, len(self.att.time_maa_x))
        att, ffn = self.att, self.ffn
        for mu in (att.time_maa_x, att.time_maa_w, att.time_maa_k):
            mu.copy_(1 - place.position**place.falling)
        att.time_maa_v.copy_(1 - (place.position**place.falling + 0.3 * place.rising))
        for mu in (att.time_maa_r, att.time_maa_g):
            mu.copy_(1 - place.position ** (place.falling / 2))
        for mu in (ffn.time_maa_k, ffn.time_maa_r):
            mu.copy_(1 - place.position ** (place.falling**3))
        att.time_maa_w1.zero_()
        att.time_maa_w2.uniform_(-0.01, 0.01, generator=generator)
        att.time_decay.copy_(-6 + 5 * place.spread ** (0.7 + 1.3 * place.rising))
        att.time_decay_w1.zero_()
        att.time_decay_w2.uniform_(-0.01, 0.01, generator=generator)
        bonus = place.rising * (1 - place.spread) + 0.1 * ((place.channel + 1) % 3 - 1)
        att.time_faaaa.copy_(bonus.view_as(att.time_faaaa))
        initialise_heads(att, place, generator)
        nn.init.orthogonal_(att.gate.weight, 0.1, generator=generator)
        nn.init.orthogonal_(ffn.key.weight, generator=generator)
        ffn.receptance.weight.zero_()
        ffn.value.weight.zero_()


class RWKV6(HeadsModel[RWKV6Config]):
    """RWKV-6 as a torch module, initialised for training from scratch (or empty on the meta device)."""

    vectors_by_head = frozenset({"time_faaaa"})

    def __init__(self, config: RWKV6Config) -> None:
        super().__init__(config, (RWKV6Block(config, layer) for layer in range(config.num_layers)))
