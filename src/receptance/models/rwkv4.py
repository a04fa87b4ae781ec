"""RWKV-4 "Dove": time mixing by an exponentially decayed weighted mean (arxiv.org/abs/2305.13048, section 4).

    r receptance   w decay   k key   v value   u bonus of the current token   mu share of the current token

    wkv_t = (sum_{i<t} e^{k_i + (t-1-i) w} v_i + e^{u + k_t} v_t) / (the same sum without v)

Parameters carry the names of the published checkpoints: `blocks.0.att.time_decay` and so on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from receptance import kernels
from receptance.errors import ConfigError
from receptance.models.interface import Block, Config, LanguageModel, State
from receptance.models.layers import ChannelMix, Half, Place, empty, orthogonal, stacked

# The exponent of an empty sum: stands for minus infinity, but stays finite so that no NaN can arise.
EMPTY_EXPONENT = -1e30


@dataclass(frozen=True, kw_only=True)
class RWKV4Config(Config):
    """The sizes of an RWKV-4; the defaults of the last two are those of every published model."""

    generation: ClassVar[str] = "4"
    operator: ClassVar[str] = "wkv4"

    attention_size: int = 0  # 0: hidden_size
    feed_forward_size: int = 0  # 0: 4 * hidden_size
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Fill in the sizes that follow from others."""
        object.__setattr__(self, "attention_size", self.attention_size or self.hidden_size)
        object.__setattr__(self, "feed_forward_size", self.feed_forward_size or 4 * self.hidden_size)
        if not 0 < self.layer_norm_epsilon < 1:
            raise ConfigError(
                f"layer_norm_epsilon is {self.layer_norm_epsilon}, but it must be between 0 and 1."
            )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class RWKV4State(State):
    """All that RWKV-4 remembers of a batch; its size does not grow with the text.

    The sums over the past are `numerator * e^exponent` and `denominator * e^exponent`, always in float32:
    a running maximum as exponent keeps them finite whatever the keys are.
    """

    time_shift: Float[Tensor, "layer batch channel"]
    channel_shift: Float[Tensor, "layer batch channel"]
    numerator: Float[Tensor, "layer batch attention"]
    denominator: Float[Tensor, "layer batch attention"]
    exponent: Float[Tensor, "layer batch attention"]


class TimeMix(Half):
    """The recurrent half of a block: what to remember of the past, channel by channel."""

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        channel, attention = config.hidden_size, config.attention_size
        self.time_decay = empty(attention)  # theta; the decay a step is e^{-e^theta}
        self.time_first = empty(attention)  # u
        self.time_mix_k = empty(channel)
        self.time_mix_v = empty(channel)
        self.time_mix_r = empty(channel)
        self.key = nn.Linear(channel, attention, bias=False)
        self.value = nn.Linear(channel, attention, bias=False)
        self.receptance = nn.Linear(channel, attention, bias=False)
        self.output = nn.Linear(attention, channel, bias=False)

    def shares(self) -> Float[Tensor, "mix channel"]:
        """Return those of the mixes that the forward pass takes, in their order."""
        return 1 - stacked(self.time_mix_k, self.time_mix_v, self.time_mix_r)

    def forward(
        self, seen: tuple[Tensor, ...], a: Tensor, b: Tensor, p: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return the block's change of x, and the sums (numerator, denominator, exponent) after it."""
        _, xk, xv, xr = seen
        k, v, r = self.key(xk), self.value(xv), self.receptance(xr)
        w, u = self.log_decay(p.dtype), self.time_first.to(p.dtype)
        wkv, sums_after = kernels.wkv4(k, v, w, u, (a, b, p), lengths)
        return self.output(torch.sigmoid(r) * wkv), sums_after

    def log_decay(self, dtype: torch.dtype) -> Tensor:
        """Return the logarithm of the decay a token, `[attention]`."""
        return -torch.exp(self.time_decay.to(dtype))


class RWKV4Block(Block):
    """One layer of RWKV-4."""

    att: TimeMix
    ffn: ChannelMix

    def __init__(self, config: RWKV4Config, layer: int) -> None:
        super().__init__(config.hidden_size, layer, config.layer_norm_epsilon)
        self.att = TimeMix(config)
        self.ffn = ChannelMix(config.hidden_size, config.feed_forward_size)

    def initialise(self, layer: int, num_layers: int, generator: torch.Generator | None) -> None:
        """Fill the layer with the starting values of RWKV-LM's v4neo trainer: it adds exactly nothing."""
        place = Place.of(layer, num_layers, self.att.time_mix_k.shape[0])
        attention = Place.of(layer, num_layers, self.att.time_decay.shape[0])
        self.att.time_decay.copy_(-5 + 8 * attention.spread ** (0.7 + 1.3 * place.rising))
        self.att.time_first.copy_(math.log(0.3) + 0.5 * ((attention.channel + 1) % 3 - 1))
        self.att.time_mix_k.copy_(place.position**place.falling)
        self.att.time_mix_v.copy_(place.position**place.falling + 0.3 * place.rising)  # above 1 is intended
        self.att.time_mix_r.copy_(place.position ** (0.5 * place.falling))
        self.ffn.time_mix_k.copy_(place.position**place.falling)
        self.ffn.time_mix_r.copy_(place.position**place.falling)
        orthogonal(self.att.value.weight, 1.0, generator)
        orthogonal(self.ffn.key.weight, 1.0, generator)
        silent = (self.att.key, self.att.receptance, self.att.output, self.ffn.receptance, self.ffn.value)
        for matrix in silent:
            matrix.weight.zero_()


class RWKV4(LanguageModel[RWKV4Config, RWKV4State]):
    """RWKV-4 as a torch module, initialised for training from scratch (or empty on the meta device).

    Example: `model = RWKV4(RWKV4Config(vocabulary_size=256, num_layers=4, hidden_size=256))`.
    """

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__(config, (RWKV4Block(config, layer) for layer in range(config.num_layers)))

    def initial_state(self, batch: int) -> RWKV4State:
        """Return the state before the first token: nothing before it, and empty sums."""
        layers, config = self.config.num_layers, self.config
        sums = torch.float64 if self.dtype == torch.float64 else torch.float32

        def filled(size: int, value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((layers, batch, size), value, dtype=dtype, device=self.device)

        return RWKV4State(
            time_shift=filled(config.hidden_size, 0.0, self.dtype),
            channel_shift=filled(config.hidden_size, 0.0, self.dtype),
            numerator=filled(config.attention_size, 0.0, sums),
            denominator=filled(config.attention_size, 0.0, sums),
            exponent=filled(config.attention_size, EMPTY_EXPONENT, sums),
        )
