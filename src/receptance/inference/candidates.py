"""The tokens that may come next, and how likely each is: what is left of the logits after the cuts.

Most cuts leave a few of 65,536 tokens. So the whole vocabulary is gone through once, and nothing but what
may be left is ever sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

FEW = 1024  # candidates that are sorted rather than thinned out further


@dataclass(frozen=True)
class Candidates:
    """Tokens by ascending id, and their scores: logits less a constant; the largest of all was zero.

    Equals are kept or cut together, as token ids carry no order.
    """

    ids: Int[np.ndarray, " candidate"]
    scores: Float[np.ndarray, " candidate"]

    @classmethod
    def of(cls, scores: Float[np.ndarray, " vocabulary"]) -> Candidates:
        """Return all tokens."""
        return cls(_all_ids(len(scores)), scores)

    def top_p(self, share: float) -> Candidates:
        """Keep the most likely that together have at least this share, with the equals of the last."""
        if share == 1:
            return self
        weights = np.exp(self.scores)
        target = share * float(weights.sum())
        # The least that is needed is looked for among ever fewer: the others surely are, or surely are not.
        unsure, needed = weights, 0.0
        while len(unsure) > FEW:
            is_heavy = unsure >= unsure.mean()
            heavy = unsure[np.flatnonzero(is_heavy)]
            if len(heavy) in (0, len(unsure)):  # all alike, but for rounding
                break
            sum_of_heavy = float(heavy.sum())
            if needed + sum_of_heavy >= target:
                unsure = heavy
            else:
                needed += sum_of_heavy
                unsure = unsure[np.flatnonzero(~is_heavy)]
        descending = np.sort(unsure)[::-1]
        return self._where(weights >= descending[_reaching(descending, target - needed)])

    def top_k(self, count: int) -> Candidates:
        """Keep so many of the most likely, with the equals of the last; 0 keeps all."""
        if not 0 < count < len(self.ids):
            return self
        return self._where(self.scores >= np.partition(self.scores, -count)[-count])

    def min_p(self, share: float) -> Candidates:
        """Keep what is at least this share as likely as the most likely (Nguyen et al. 2024, "Min-p")."""
        return self if share == 0 else self._where(np.exp(self.scores) >= share)

    def typical_p(self, share: float) -> Candidates:
        """Keep those whose information is nearest to the entropy, up to this share, with equals of the last.

        "Locally typical sampling" (Meister et al. 2023).
        """
        if share == 1:
            return self
        possible = self._where(self.scores > -np.inf)
        weights = np.exp(possible.scores)
        total = weights.sum()
        information = np.log(total) - possible.scores
        distance = np.abs(information - (weights * information).sum() / total)
        order = np.argsort(distance)
        last = order[_reaching(weights[order], share * total)]
        return possible._where(distance <= distance[last])

    def heated(self, temperature: float) -> Candidates:
        """Return them with p^(1 / temperature), in float64."""
        if temperature == 1:
            return self
        # Powers of probabilities are multiples of logits, which neither underflow nor overflow.
        with np.errstate(over="ignore"):
            scores = self.scores.astype(np.float64)
            return Candidates(self.ids, (scores - scores.max()) / temperature)

    def probabilities(self) -> Float[np.ndarray, " candidate"]:
        """Return the probabilities in float64; they sum to one."""
        scores = self.scores.astype(np.float64)
        weights: np.ndarray = np.exp(scores - scores.max())
        weights /= weights.sum()
        return weights

    def _where(self, kept: np.ndarray) -> Candidates:
        places = np.flatnonzero(kept)
        return Candidates(self.ids[places], self.scores[places])


@cache
def _all_ids(vocabulary_size: int) -> Int[np.ndarray, " vocabulary"]:
    ids = np.arange(vocabulary_size)
    ids.flags.writeable = False
    return ids


def _reaching(weights: Float[np.ndarray, " candidate"], target: float) -> int:
    """Return where the running sum first reaches the target; the last place if rounding leaves it short."""
    return min(int(np.searchsorted(weights.cumsum(dtype=np.float64), target)), len(weights) - 1)
