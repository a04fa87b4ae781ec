"""From logits to the next token: one pure function, whose chance is handed in.

The order is that of the reference pipeline of RWKV, which differs from other families when the temperature is
not one:

    p = softmax(logits)
    top-p    keep every p that is at least the value at which the descending sum first reaches top_p
    top-k    keep every p that is at least the k-th largest
    p ^ (1 / temperature), divided by its sum

So the choice of the candidates does not depend on the temperature, which only weighs them. Equal
probabilities are kept or cut together, as token ids carry no order.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.errors import ConfigError

SEEDS = 2**64
FEW = 1024


def fresh_seed() -> int:
    """Return a seed at random, short enough for every JSON reader to keep it exact."""
    return secrets.randbits(48)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The defaults are those of the reference pipeline of RWKV.

    temperature  above 1 evens the candidates out, below 1 sharpens them, 0 always takes the most likely
    top_p        the candidates together have at least this probability; 1 keeps all, 0 only the most likely
    top_k        the candidates are the k most likely, with the equals of the last; 0 keeps all
    seed         the same seed, model and prompt give the same text; a fresh one where none is given

    Raises ConfigError when a value is outside its range.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    seed: int = field(default_factory=fresh_seed)

    def __post_init__(self) -> None:
        """Refuse what cannot be obeyed; comparisons are written so that NaN fails them."""
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"temperature is {self.temperature}, but it must be 0 (greedy) or above, and finite."
            )
        if not 0 <= self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}, but it is a probability: from 0 to 1 (off).")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}, but it counts tokens: 0 (off) or above.")
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(f"seed is {self.seed}, but it must be from 0 to 2^64 - 1.")


def uniform(seed: int, position: int) -> float:
    """Return the random number in [0, 1) that belongs to the token at this position of a text.

    It depends on nothing else: not on the batch, nor on how many were drawn before. Philox, a counter-based
    generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), keyed by the seed.
    """
    bits = int(np.random.Philox(key=seed, counter=position).random_raw())
    return (bits >> 11) / 2**53


def distribution(
    logits: Float[Tensor, "*batch vocabulary"], sampling: Sampling
) -> Float[Tensor, "*batch vocabulary"]:
    """Return the probabilities, in float64, from which `sample` draws.

    A logit of minus infinity bans its token. Raises ConfigError when the largest logit is not finite.
    """
    logits = logits.double()
    largest = logits.amax(-1, keepdim=True)
    if not bool(torch.isfinite(largest).all()):
        raise ConfigError(
            "There is no next token to draw: the logits hold NaN or infinity. The model overflows in its "
            "number format or has diverged; try it with dtype float32."
        )
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    probabilities = torch.softmax(logits, -1)
    # Powers of probabilities are multiples of logits, which neither underflow nor overflow.
    powers = (logits - largest) / sampling.temperature
    return torch.softmax(powers.masked_fill(probabilities < _cutoff(probabilities, sampling), -math.inf), -1)


def sample(
    logits: Float[Tensor, "*batch vocabulary"],
    sampling: Sampling,
    chance: Float[Tensor, "*batch"] | float,
) -> Int[Tensor, "*batch"]:
    """Return one token id for each row of logits; `chance` in [0, 1) decides, see `uniform`.

    Raises ConfigError when logits are not finite.
    """
    cumulative = distribution(logits, sampling).cumsum(-1)
    # Divided by its end, the sum ends at exactly one, which is above every chance.
    cumulative = cumulative / cumulative[..., -1:]
    chances = torch.as_tensor(chance, dtype=torch.float64, device=logits.device)
    return torch.searchsorted(
        cumulative, chances.expand(logits.shape[:-1]).unsqueeze(-1), right=True
    ).squeeze(-1)


def _cutoff(
    probabilities: Float[Tensor, "*batch vocabulary"], sampling: Sampling
) -> Float[Tensor, "*batch 1"]:
    """Return the smallest probability that stays a candidate."""
    cutoff = torch.zeros_like(probabilities[..., :1])
    vocabulary = probabilities.shape[-1]
    if sampling.top_p < 1:
        # The few most likely nearly always reach top_p; sorting them all costs several times as much.
        descending = probabilities.topk(min(FEW, vocabulary), -1).values
        short = descending.cumsum(-1) < sampling.top_p
        if bool(short[..., -1].any()):
            descending = probabilities.sort(-1, descending=True).values
            short = descending.cumsum(-1) < sampling.top_p
        # Rounding may leave the whole sum short of top_p: then all are kept.
        first = short.sum(-1, keepdim=True).clamp(max=descending.shape[-1] - 1)
        cutoff = descending.gather(-1, first)
    if 0 < sampling.top_k < vocabulary:
        cutoff = torch.maximum(cutoff, probabilities.topk(sampling.top_k, -1).values[..., -1:])
    return cutoff
