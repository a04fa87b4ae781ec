"""How fast a model forgets: the half-life of every channel of its memory, in tokens.

A memory that is multiplied by e^w at every token, w < 0, is down to half after

    half-life = ln 2 / -w    tokens.

RWKV-4 and 5 decay alike at every token. In RWKV-6 and 7 w depends on the text: `rates` has it at each token,
and the half-life over a text is ln 2 over the mean of -w, since the decays of the tokens multiply. RWKV-7
also replaces what a key held before, which is beside the decay and not counted here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from receptance.models import RWKV4, RWKV5, AnyModel, State, rwkv4, rwkv5, rwkv6, rwkv7

PERCENTILES = (10, 50, 90)

# What the axis of a distribution ends at: powers of ten of tokens, and how many columns it has.
_LEAST, _MOST, _COLUMNS = -2, 7, 96


@dataclass(frozen=True, kw_only=True)
class Decays:
    """What each channel of the memory loses at each token.

    rates            -w of every head's key channels; RWKV-4, which has no heads, counts as one head of all
                     channels; a single token stands for all where the decay does not depend on the text
    depends_on_text  whether it does
    """

    rates: Float[Tensor, "token layer head channel"]
    depends_on_text: bool

    @property
    def half_lives(self) -> Float[Tensor, "layer head channel"]:
        """Tokens after which a channel has lost half of what it held, over this text."""
        return math.log(2) / self.rates.mean(0)

    @property
    def percentiles(self) -> Float[Tensor, "percentile layer head channel"]:
        """Half-lives that 10, 50 and 90 % of this text's tokens stay below, channel by channel."""
        shares = torch.tensor(PERCENTILES, dtype=self.rates.dtype, device=self.rates.device) / 100
        # Layer by layer, because torch refuses quantiles of more than 16 million numbers at once.
        each = [(math.log(2) / layer).quantile(shares, dim=0) for layer in self.rates.unbind(1)]
        return torch.stack(each, dim=1)

    def distribution(self) -> tuple[Float[Tensor, " edge"], Float[Tensor, "layer column"]]:
        """Return how the half-lives of all channels at all tokens spread over a logarithmic axis.

        The axis goes from one power of ten to another, 0.01 and 10 million tokens at most; what lies
        beyond is counted at its end. The shares of a layer add up to 1.
        """
        powers = (math.log(2) / self.rates.double().cpu()).log10().clamp(_LEAST, _MOST)
        low = math.floor(float(powers.min()))
        high = max(math.ceil(float(powers.max())), low + 1)
        columns = ((powers - low) / (high - low) * _COLUMNS).long().clamp_max(_COLUMNS - 1)
        counts = [layer.flatten().bincount(minlength=_COLUMNS) for layer in columns.unbind(1)]
        edges = 10 ** torch.linspace(low, high, _COLUMNS + 1, dtype=torch.float64)
        return edges, torch.stack(counts).double() / columns[:, 0].numel()


@torch.inference_mode()
def decays(model: AnyModel, tokens: Int[Tensor, " token"], state: State | None = None) -> Decays:
    """Return how fast the model forgets while it reads these tokens, from this state on."""
    memory = torch.float64 if model.dtype == torch.float64 else torch.float32
    if isinstance(model, RWKV4 | RWKV5):
        mixes = cast("Sequence[rwkv4.TimeMix | rwkv5.TimeMix]", [block.att for block in model.layers])
        fixed = torch.stack([mix.log_decay(memory) for mix in mixes])
        heads = fixed if fixed.ndim == 3 else fixed.unsqueeze(1)
        return Decays(rates=-heads.unsqueeze(0), depends_on_text=False)
    seen: list[Tensor] = []

    def look(att: nn.Module, arguments: tuple[tuple[Tensor, ...], ...]) -> None:
        inputs = arguments[0]
        if isinstance(att, rwkv6.TimeMix):
            seen.append(att.log_decay(att.mixes(*inputs)[0], memory))
        elif isinstance(att, rwkv7.TimeMix):
            _, _, xw, *_ = inputs
            seen.append(att.log_decay(xw, memory))

    hooks = [block.att.register_forward_pre_hook(look) for block in model.layers]
    try:
        model.features(tokens[None], state)
    finally:
        for hook in hooks:
            hook.remove()
    rates = -torch.cat(seen).transpose(0, 1)
    return Decays(rates=rates.view(*rates.shape[:2], model.config.num_heads, -1), depends_on_text=True)
