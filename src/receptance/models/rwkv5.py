"""RWKV-5 "Eagle" 5.0, 5.1 and 5.2: a matrix of memory a head (arxiv.org/abs/2404.05892, section 3.1).

    r receptance   w decay   k key   v value   g gate (from 5.1)   u bonus of the current token

    y_t = r_t (diag(u) k_t^T v_t + S_{t-1})        S_t = diag(w) S_{t-1} + k_t^T v_t

5.0 and 5.1 have one decay and one bonus a head (stored as `time_first`, a logarithm); 5.2 one a key channel
(the bonus stored as `time_faaaa`, as it is).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from receptance import kernels
from receptance.models.heads import HeadNorm, HeadsConfig, HeadsModel, initialise_heads
from receptance.models.interface import Block
from receptance.models.layers import ChannelMix, Half, Place, empty, stacked


@dataclass(frozen=True, kw_only=True)
class RWKV5Config(HeadsConfig):
    """The sizes of an RWKV-5."""

    generation: ClassVar[str] = "5"
    operator: ClassVar[str] = "wkv6"

    version: Literal["5.0", "5.1", "5.2"] = "5.2"


class TimeMix(Half):
    """The recurrent half of a block: a decayed sum of key-value pairs, read by the receptance."""

    def __init__(self, config: RWKV5Config) -> None:
        super().__init__()
        channel, heads, size = config.hidden_size, config.num_heads, config.head_size
        self.num_heads, self.head_size = heads, size
        if config.version == "5.2":
            self.time_decay = empty(heads, size)
            self.time_faaaa = empty(heads, size)
        else:
            self.time_decay = empty(heads)
            self.time_first = empty(heads)
        self.time_mix_k = empty(channel)
        self.time_mix_v = empty(channel)
        self.time_mix_r = empty(channel)
        self.receptance = nn.Linear(channel, channel, bias=False)
        self.key = nn.Linear(channel, channel, bias=False)
        self.value = nn.Linear(channel, channel, bias=False)
        self.gate: nn.Linear | None = None
        if config.version != "5.0":
            self.time_mix_g = empty(channel)
            self.gate = nn.Linear(channel, channel, bias=False)
        self.output = nn.Linear(channel, channel, bias=False)
        self.ln_x = HeadNorm(config)

    def shares(self) -> Float[Tensor, "mix channel"]:
        """Return those of the mixes that the forward pass takes, in their order."""
        mixes = (self.time_mix_r, self.time_mix_k, self.time_mix_v)
        return 1 - stacked(*mixes, *([] if self.gate is None else [self.time_mix_g]))

    def forward(
        self, seen: tuple[Tensor, ...], state: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor]]:
        """Return the block's change of x, and the memory after it."""
        _, xr, xk, xv, *xg = seen
        heads = (*xr.shape[:2], self.num_heads, self.head_size)
        r, k, v = self.receptance(xr).view(heads), self.key(xk).view(heads), self.value(xv).view(heads)
        w = self.log_decay(state.dtype).expand(heads)
        y, state = kernels.wkv6(r, k, v, w, self.bonus(state.dtype), state, lengths)
        y = self.ln_x(y)
        if self.gate is not None:
            y = y * nn.functional.silu(self.gate(*xg))
        return self.output(y), (state,)

    def log_decay(self, dtype: torch.dtype) -> Tensor:
        """Return the logarithm of the decay, `[head, key]`."""
        w = -torch.exp(self.time_decay.to(dtype))
        return w.view(self.num_heads, -1).expand(-1, self.head_size)

    def bonus(self, dtype: torch.dtype) -> Tensor:
        """Return the bonus of the current token, `[head, key]`."""
        u = self.time_faaaa.to(dtype) if hasattr(self, "time_faaaa") else torch.exp(self.time_first.to(dtype))
        return u.view(self.num_heads, -1).expand(-1, self.head_size)


class RWKV5Block(Block):
    """One layer of RWKV-5."""

    att: TimeMix
    ffn: ChannelMix

    def __init__(self, config: RWKV5Config, layer: int) -> None:
        super().__init__(config.hidden_size, layer)
        self.att = TimeMix(config)
        self.ffn = ChannelMix(config.hidden_size, config.feed_forward_size)

    def initialise(self, layer: int, num_layers: int, generator: torch.Generator | None) -> None:
        """Fill the layer with the starting values of RWKV-LM's v5 trainer: it adds exactly nothing."""
        place = Place.of(layer, num_layers, self.ln1.normalized_shape[0])
        att, ffn = self.att, self.ffn
        att.time_mix_k.copy_(place.position**place.falling)
        att.time_mix_v.copy_(place.position**place.falling + 0.3 * place.rising)
        att.time_mix_r.copy_(place.position ** (place.falling / 2))
        ffn.time_mix_k.copy_(place.position**place.falling)
        ffn.time_mix_r.copy_(place.position**place.falling)
        initialise_heads(att, place, generator)
        if att.gate is not None:
            att.time_mix_g.copy_(att.time_mix_r)
            nn.init.orthogonal_(att.gate.weight, 0.1, generator=generator)
        decay = -6 + 5 * place.spread ** (0.7 + 1.3 * place.rising)
        bonus = place.rising * (1 - place.spread) + 0.1 * ((place.channel + 1) % 3 - 1)
        if att.time_decay.ndim == 2:
            att.time_decay.copy_(decay.view_as(att.time_decay))
            att.time_faaaa.copy_(bonus.view_as(att.time_faaaa))
        else:
            heads = Place.of(layer, num_layers, len(att.time_decay)).spread
            att.time_decay.copy_(-8 + 7 * heads ** (0.7 + 1.3 * place.rising))
            att.time_first.fill_(-3.0)
        nn.init.orthogonal_(ffn.key.weight, generator=generator)
        ffn.receptance.weight.zero_()
        ffn.value.weight.zero_()


class RWKV5(HeadsModel[RWKV5Config]):
    """RWKV-5 as a torch module, initialised for training from scratch (or empty on the meta device)."""

    vectors_by_head = frozenset({"time_decay", "time_faaaa"})

    def __init__(self, config: RWKV5Config) -> None:
        super().__init__(config, (RWKV5Block(config, layer) for layer in range(config.num_layers)))
