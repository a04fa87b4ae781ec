"""RWKV-4 "Dove": time mixing by an exponentially decayed weighted mean (arxiv.org/abs/2305.13048, section 4).

    r receptance   w decay   k key   v value   u bonus of the current token   mu share of the current token

    wkv_t = (sum_{i<t} e^{k_i + (t-1-i) w} v_i + e^{u + k_t} v_t) / (the same sum without v)

Parameters carry the names of the published checkpoints: `blocks.0.att.time_decay` and so on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from receptance import kernels
from receptance.errors import ConfigError
from receptance.models.interface import Config, LanguageModel, State
from receptance.models.layers import LayerNorm, orthogonal, previous_token

# The exponent of an empty sum: stands for minus infinity, but stays finite so that no NaN can arise.
EMPTY_EXPONENT = -1e30


@dataclass(frozen=True, kw_only=True)
class RWKV4Config(Config):
    """The sizes of an RWKV-4; the defaults of the last two are those of every published model."""

    generation: ClassVar[str] = "4"

    attention_size: int = 0  # 0: hidden_size
    feed_forward_size: int = 0  # 0: 4 * hidden_size
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Fill in the sizes that follow from others."""
        object.__setattr__(self, "attention_size", self.attention_size or self.hidden_size)
        object.__setattr__(self, "feed_forward_size", self.feed_forward_size or 4 * self.hidden_size)
        for name in ("vocabulary_size", "num_layers", "hidden_size", "attention_size", "feed_forward_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least 1.")


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


class TimeMix(nn.Module):
    """The recurrent half of a block: what to remember of the past, channel by channel."""

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        channel, attention = config.hidden_size, config.attention_size
        self.time_decay = nn.Parameter(torch.empty(attention))  # theta; the decay a step is e^{-e^theta}
        self.time_first = nn.Parameter(torch.empty(attention))  # u
        self.time_mix_k = nn.Parameter(torch.empty(channel))
        self.time_mix_v = nn.Parameter(torch.empty(channel))
        self.time_mix_r = nn.Parameter(torch.empty(channel))
        self.key = nn.Linear(channel, attention, bias=False)
        self.value = nn.Linear(channel, attention, bias=False)
        self.receptance = nn.Linear(channel, attention, bias=False)
        self.output = nn.Linear(attention, channel, bias=False)

    def forward(
        self, x: Tensor, shift: Tensor, sums: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return the block's change of x, and the sums (numerator, denominator, exponent) after it."""
        past = previous_token(x, shift)
        k = self.key(torch.lerp(past, x, self.time_mix_k.to(x.dtype)))
        v = self.value(torch.lerp(past, x, self.time_mix_v.to(x.dtype)))
        r = self.receptance(torch.lerp(past, x, self.time_mix_r.to(x.dtype)))
        w = -torch.exp(self.time_decay.float() if x.dtype != torch.float64 else self.time_decay)
        wkv, sums = kernels.wkv4(k, v, w, self.time_first.to(w.dtype), sums)
        return self.output(torch.sigmoid(r) * wkv), sums


class ChannelMix(nn.Module):
    """The feed-forward half of a block: squared ReLU, gated by the receptance."""

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        channel, wide = config.hidden_size, config.feed_forward_size
        self.time_mix_k = nn.Parameter(torch.empty(channel))
        self.time_mix_r = nn.Parameter(torch.empty(channel))
        self.key = nn.Linear(channel, wide, bias=False)
        self.receptance = nn.Linear(channel, channel, bias=False)
        self.value = nn.Linear(wide, channel, bias=False)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """Return the block's change of x."""
        past = previous_token(x, shift)
        k = self.key(torch.lerp(past, x, self.time_mix_k.to(x.dtype)))
        r = self.receptance(torch.lerp(past, x, self.time_mix_r.to(x.dtype)))
        change: Tensor = torch.sigmoid(r) * self.value(torch.relu(k).square())
        return change


class Block(nn.Module):
    """One layer: time mixing, then channel mixing, each on a normalised copy of the residual stream."""

    def __init__(self, config: RWKV4Config, layer: int) -> None:
        super().__init__()
        size, epsilon = config.hidden_size, config.layer_norm_epsilon
        if layer == 0:
            self.ln0 = LayerNorm(size, eps=epsilon)
        self.ln1 = LayerNorm(size, eps=epsilon)
        self.ln2 = LayerNorm(size, eps=epsilon)
        self.att = TimeMix(config)
        self.ffn = ChannelMix(config)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the residual stream after the layer, and the layer's state in the order of RWKV4State."""
        time_shift, channel_shift, *sums = state
        seen = self.ln1(x)
        change, sums_after = self.att(seen, time_shift, tuple(sums))
        x = x + change
        seen_by_channels = self.ln2(x)
        x = x + self.ffn(seen_by_channels, channel_shift)
        return x, (seen[:, -1], seen_by_channels[:, -1], *sums_after)

    def initialise(self, layer: int, num_layers: int, generator: torch.Generator | None) -> None:
        """Fill the layer with the starting values of RWKV-LM's v4neo trainer: it adds exactly nothing."""
        rising = layer / (num_layers - 1) if num_layers > 1 else 0.5
        falling = 1 - layer / num_layers
        channel = torch.arange(self.ln1.normalized_shape[0])
        position = channel / len(channel)
        attention = torch.arange(self.att.time_decay.shape[0])
        spread = attention / max(len(attention) - 1, 1)
        for norm in (module for module in self.children() if isinstance(module, LayerNorm)):
            norm.reset_parameters()
        self.att.time_decay.copy_(-5 + 8 * spread ** (0.7 + 1.3 * rising))
        self.att.time_first.copy_(math.log(0.3) + 0.5 * ((attention + 1) % 3 - 1))
        self.att.time_mix_k.copy_(position**falling)
        self.att.time_mix_v.copy_(position**falling + 0.3 * rising)  # above 1 is intended
        self.att.time_mix_r.copy_(position ** (0.5 * falling))
        self.ffn.time_mix_k.copy_(position**falling)
        self.ffn.time_mix_r.copy_(position**falling)
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
        super().__init__()
        self.config = config
        # Made from an empty table, because drawing one on the meta device makes torch import its compiler.
        table = torch.empty(config.vocabulary_size, config.hidden_size)
        self.emb = nn.Embedding(config.vocabulary_size, config.hidden_size, _weight=table)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.ln_out = LayerNorm(config.hidden_size, eps=1e-5)
        self.head = nn.Linear(config.hidden_size, config.vocabulary_size, bias=False)
        if self.device.type != "meta":
            self.initialise()

    @property
    def layers(self) -> tuple[Block, ...]:
        """The blocks, from the first to the last."""
        return cast("tuple[Block, ...]", tuple(self.blocks))

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

    def features(
        self, tokens: Int[Tensor, "batch time"], state: RWKV4State | None = None
    ) -> tuple[Float[Tensor, "batch time channel"], RWKV4State]:
        """Read a span of tokens and return what the head sees, and the state after it."""
        if state is None:
            state = self.initial_state(tokens.shape[0])
        x = self.layers[0].ln0(self.emb(tokens))
        ends = []
        for block, *start in zip(self.layers, *state.tensors().values(), strict=True):
            x, end = block(x, tuple(start))
            ends.append(end)
        after = (torch.stack(tensors) for tensors in zip(*ends, strict=True))
        return self.ln_out(x), RWKV4State(**dict(zip(state.tensors(), after, strict=True)))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None, embedding_scale: float = 1e-4) -> None:
        """Fill every parameter with its starting value, in place.

        Every block starts by adding exactly nothing, so the loss of the first step is ln V + 0.125. The
        embedding is uniform in +-`embedding_scale`, as the paper has it (appendix E).
        """
        self.emb.weight.uniform_(-embedding_scale, embedding_scale, generator=generator)
        orthogonal(self.head.weight, 0.5, generator)
        self.ln_out.reset_parameters()
        for layer, block in enumerate(self.layers):
            block.initialise(layer, self.config.num_layers, generator)
