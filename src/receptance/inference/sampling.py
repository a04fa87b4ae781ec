"""From logits to the next token: one pure function, whose chance is handed in.

    logits + bias - penalties, minus infinity where a token is banned
    the cuts and the temperature, in one of two orders
    the first token at which the running sum of the probabilities, by ascending id, exceeds the chance

The order of the reference pipeline of RWKV differs from that of other families when the temperature is not
one: it cuts first, so that the temperature weighs the candidates, but does not choose them.

    p = softmax(logits), cut by top-p, top-k, min-p, typical-p, then p ^ (1 / temperature)

With `temperature_first` it is what clients of OpenAI's interface expect, and what transformers does:

    p = softmax(logits / temperature), cut by top-k, top-p, min-p, typical-p

Each cut sees what the one before left, as probabilities that sum to one again. The sum of the reference's
top-p is over all tokens, so it comes first there. Equals are kept or cut together, as ids carry no order.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference.candidates import Candidates
from receptance.inference.penalties import Counts

SEEDS = 2**64


def fresh_seed() -> int:
    """Return a seed at random, short enough for every JSON reader to keep it exact."""
    return secrets.randbits(48)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The defaults are those of the reference pipeline of RWKV, less penalties.

    temperature        above 1 evens the candidates out, below 1 sharpens them, 0 always takes the most likely
    top_p              the candidates together have at least this probability; 1 keeps all, 0 the most likely
    top_k              the candidates are the k most likely, with the equals of the last; 0 keeps all
    min_p              a candidate is at least this share as likely as the most likely; 0 keeps all
    typical_p          the candidates whose information is nearest to the entropy, together with at least this
                       probability; 1 keeps all
    temperature_first  whether the temperature comes before the cuts, as other families have it, or after
    presence_penalty   taken from the logit of every token that was written
    frequency_penalty  taken from it once for each time
    penalty_decay      what remains of the count after each token
    uncounted          tokens whose count stays zero; None takes the digits, space and tab of the reference,
                       see `penalties.reference_uncounted`
    logit_bias         added to the logits of these tokens; minus infinity bans
    ban                tokens that are never written
    seed               the same seed, model and prompt give the same text; fresh where none is given

    Raises ConfigError when a value is outside its range.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    temperature_first: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_decay: float = 0.996
    uncounted: Collection[int] | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    ban: Collection[int] = ()
    seed: int = field(default_factory=fresh_seed)

    def __post_init__(self) -> None:
        """Refuse what cannot be obeyed; comparisons are written so that NaN fails them."""
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"temperature is {self.temperature}, but it must be 0 (greedy) or above, and finite."
            )
        for name, off in (("top_p", "1"), ("min_p", "0"), ("typical_p", "1")):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ConfigError(f"{name} is {value}, but it is a probability: from 0 to 1 ({off} is off).")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}, but it counts tokens: 0 (off) or above.")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(value := getattr(self, name)):
                raise ConfigError(f"{name} is {value}, but it must be finite; 0 is off.")
        if not 0 <= self.penalty_decay <= 1:
            raise ConfigError(
                f"penalty_decay is {self.penalty_decay}, but it must be from 0 to 1 (no decay)."
            )
        for token, bias in self.logit_bias.items():
            if not bias < math.inf:
                raise ConfigError(
                    f"logit_bias adds {bias} to token {token}: use a finite value, or -inf to ban."
                )
        if not 0 <= self.seed < SEEDS:
            raise ConfigError(f"seed is {self.seed}, but it must be from 0 to 2^64 - 1.")

    def require_known(self, vocabulary_size: int) -> None:
        """Raise ConfigError when a bias or a ban is for a token that cannot be drawn anyway."""
        for name, tokens in (("logit_bias", self.logit_bias), ("ban", self.ban)):
            if strangers := [token for token in tokens if not 0 <= token < vocabulary_size]:
                raise ConfigError(
                    f"{name} names token {strangers[0]}, but the ids of the tokenizer go from 0 to "
                    f"{vocabulary_size - 1}."
                )

    @property
    def penalises(self) -> bool:
        """Whether what was written matters."""
        return bool(self.presence_penalty or self.frequency_penalty)


class SamplingSettings(TypedDict, total=False):
    """The fields of `Sampling` but the seed, for functions that take them by name."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    typical_p: float
    temperature_first: bool
    presence_penalty: float
    frequency_penalty: float
    penalty_decay: float
    uncounted: Collection[int] | None
    logit_bias: Mapping[int, float]
    ban: Collection[int]


def uniform(seed: int, position: int) -> float:
    """Return the random number in [0, 1) that belongs to the token at this position of a text.

    It depends on nothing else: not on the batch, nor on how many were drawn before. Philox, a counter-based
    generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), keyed by the seed.
    """
    bits = int(np.random.Philox(key=seed, counter=position).random_raw())
    return (bits >> 11) / 2**53


def distribution(
    logits: Float[Tensor, "*batch vocabulary"], sampling: Sampling, counts: Counts | None = None
) -> Float[Tensor, "*batch vocabulary"]:
    """Return the probabilities, in float64, from which `sample` draws; arguments and errors are its own."""
    rows = _rows(logits)
    probabilities = np.zeros(rows.shape)
    for row, into in zip(rows, probabilities, strict=True):
        ids, weights = _candidates(row, sampling, counts)
        into[ids] = weights
    return torch.from_numpy(probabilities).reshape(logits.shape).to(logits.device)


def sample(
    logits: Float[Tensor, "*batch vocabulary"],
    sampling: Sampling,
    chance: Float[Tensor, "*batch"] | float,
    counts: Counts | None = None,
) -> Int[Tensor, "*batch"]:
    """Return one token id for each row of logits.

    A logit of minus infinity bans its token.

    chance  a number in [0, 1) that decides, see `uniform`
    counts  of what was written before, for the penalties

    Raises ConfigError when the largest logit is not finite, or a bias or a ban is outside the vocabulary.
    """
    chances = torch.as_tensor(chance, dtype=torch.float64).expand(logits.shape[:-1]).reshape(-1).tolist()
    drawn = []
    for row, limit in zip(_rows(logits), chances, strict=True):
        ids, weights = _candidates(row, sampling, counts)
        cumulative = torch.from_numpy(weights).cumsum(0).numpy()  # numpy's takes four times as long
        # Divided by its end, the sum ends at exactly one, which is above every chance.
        drawn.append(ids[np.searchsorted(cumulative / cumulative[-1], limit, side="right")])
    return torch.tensor(np.array(drawn, np.int64)).reshape(logits.shape[:-1]).to(logits.device)


def log_probabilities(
    logits: Float[Tensor, " vocabulary"], token: int, top: int = 0
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return what the model itself thinks of a token, and its `top` most likely ones: logs of probabilities.

    They are of the plain softmax, before bias, penalties, temperature and cuts. The most likely comes first,
    and of equals the one with the smallest id.
    """
    (row,) = _rows(logits)
    top = min(top, len(row))
    largest = row.max()
    normaliser = float(largest) + math.log(np.exp(row - largest).sum(dtype=np.float64))
    least = np.partition(row, -top)[-top] if top else math.inf
    likely = np.flatnonzero(row >= least)
    likely = likely[np.argsort(-row[likely], kind="stable")][:top]
    return float(row[token]) - normaliser, tuple((int(i), float(row[i]) - normaliser) for i in likely)


def _rows(logits: Float[Tensor, "*batch vocabulary"]) -> Float[np.ndarray, "row vocabulary"]:
    """Return the rows in float32, or in the float64 that they are in."""
    logits = logits.detach().cpu()
    wide = logits if logits.dtype == torch.float64 else logits.float()
    rows: np.ndarray = wide.reshape(-1, logits.shape[-1]).numpy()
    return rows


def _candidates(
    row: Float[np.ndarray, " vocabulary"], sampling: Sampling, counts: Counts | None
) -> tuple[Int[np.ndarray, " candidate"], Float[np.ndarray, " candidate"]]:
    """Return the tokens that may be drawn, by ascending id, and their probabilities."""
    row = _adjusted(row, sampling, counts)
    largest = row.max()
    if not math.isfinite(largest):
        what = (
            "all are minus infinity: all tokens are banned"
            if largest == -math.inf
            else "they hold NaN or infinity"
        )
        raise ConfigError(
            f"There is no next token to draw from the logits: {what}. If nobody asked for that, the model "
            "overflows in its number format or has diverged; try it with dtype float32."
        )
    if sampling.temperature == 0:
        return np.array([row.argmax()]), np.ones(1)
    candidates = Candidates.of(row - largest)
    if sampling.temperature_first:
        candidates = candidates.heated(sampling.temperature).top_k(sampling.top_k).top_p(sampling.top_p)
    else:
        candidates = candidates.top_p(sampling.top_p).top_k(sampling.top_k)
    candidates = candidates.min_p(sampling.min_p).typical_p(sampling.typical_p)
    if not sampling.temperature_first:
        candidates = candidates.heated(sampling.temperature)
    return candidates.ids, candidates.probabilities()


def _adjusted(
    row: Float[np.ndarray, " vocabulary"], sampling: Sampling, counts: Counts | None
) -> Float[np.ndarray, " vocabulary"]:
    """Return the logits with bias, penalties and bans, as a copy where there are any."""
    penalised = counts is not None and sampling.penalises
    if not (penalised or sampling.logit_bias or sampling.ban):
        return row
    sampling.require_known(len(row))
    row = row.copy()
    if counts is not None and penalised:
        row[counts.tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts.counts
    row[list(sampling.logit_bias)] += list(sampling.logit_bias.values())
    row[list(sampling.ban)] = -math.inf
    return row
