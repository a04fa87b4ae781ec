"""What RWKV-5, 6 and 7 share: a matrix of memory a head, and a norm of each head's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from receptance.errors import ConfigError
from receptance.models.interface import Config, LanguageModel, State
from receptance.models.layers import Place, empty

# RWKV-LM divides by 8 before a group norm of epsilon 1e-5, which is a group norm of epsilon 1e-5 * 8^2.
GROUP_NORM_EPSILON = 64e-5


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(Config):
    """The sizes that RWKV-5, 6 and 7 share."""

    head_size: int = 64
    feed_forward_size: int = 0  # 0: the generation's own rule
    group_norm_epsilon: float = GROUP_NORM_EPSILON

    @property
    def num_heads(self) -> int:
        """Number of heads, each with a matrix of memory."""
        return self.hidden_size // self.head_size

    def __post_init__(self) -> None:
        """Fill in the sizes that follow from others."""
        object.__setattr__(
            self, "feed_forward_size", self.feed_forward_size or self.default_feed_forward_size
        )
        super().__post_init__()
        if self.hidden_size % self.head_size:
            raise ConfigError(
                f"hidden_size is {self.hidden_size}, not a multiple of head_size {self.head_size}."
            )

    @property
    def default_feed_forward_size(self) -> int:
        """Width of the feed-forward half in new models of the generation: 3.5 times, in steps of 32."""
        return int(3.5 * self.hidden_size) // 32 * 32


@dataclass(frozen=True, kw_only=True)
class HeadsState(State):
    """All that RWKV-5, 6 or 7 remembers of a batch; its size does not grow with the text.

    The matrices are `[key, value]` in RWKV-5 and 6, `[value, key]` in RWKV-7, always float32: they sum over
    the whole past.
    """

    time_shift: Float[Tensor, "layer batch channel"]
    channel_shift: Float[Tensor, "layer batch channel"]
    wkv: Float[Tensor, "layer batch head size size"]


class HeadNorm(nn.Module):
    """Group norm with a group a head, over `[batch, time, head, size]`."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.num_heads, self.epsilon = config.num_heads, config.group_norm_epsilon
        self.weight = empty(config.hidden_size)
        self.bias = empty(config.hidden_size)

    def forward(self, x: Float[Tensor, "batch time head size"]) -> Float[Tensor, "batch time channel"]:
        """Normalise each head's output of each token, and lay the heads side by side."""
        batch, time = x.shape[:2]
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        rows = F.group_norm(x.reshape(batch * time, -1), self.num_heads, weight, bias, self.epsilon)
        return rows.view(batch, time, -1)


HeadsConfigT = TypeVar("HeadsConfigT", bound=HeadsConfig)


class HeadsModel(LanguageModel[HeadsConfigT, HeadsState]):
    """A language model whose memory is a matrix a head."""

    def initial_state(self, batch: int) -> HeadsState:
        """Return the state before the first token: all zero."""
        config = self.config
        layers, size = config.num_layers, config.head_size
        memory = torch.float64 if self.dtype == torch.float64 else torch.float32
        shift = torch.zeros(layers, batch, config.hidden_size, dtype=self.dtype, device=self.device)
        wkv = torch.zeros(layers, batch, config.num_heads, size, size, dtype=memory, device=self.device)
        return HeadsState(time_shift=shift, channel_shift=shift, wkv=wkv)


def initialise_heads(att: nn.Module, place: Place, generator: torch.Generator | None) -> None:
    """Fill what RWKV-5, 6 and 7 start alike: the projections and the norm of the heads."""
    for name, gain in (("receptance", 1.0), ("key", 0.1), ("value", 1.0)):
        nn.init.orthogonal_(att.get_parameter(f"{name}.weight"), gain, generator=generator)
    att.get_parameter("output.weight").zero_()
    att.get_parameter("ln_x.weight").fill_(place.depth**0.7)
    att.get_parameter("ln_x.bias").zero_()
