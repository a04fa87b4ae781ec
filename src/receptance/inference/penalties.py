"""Penalties for repetition, as RWKV has them: what was written lately becomes less likely.

    logit -= presence_penalty + frequency_penalty * count     for every token that was written
    count *= penalty_decay                                    after each token, then one more for the token

The prompt does not count, only what the model wrote. In the reference pipeline some tokens are not counted:
their count stays zero, so the presence penalty alone applies to them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from receptance.tokenizers import Tokenizer

_REFERENCE_UNCOUNTED = " \t0123456789"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How often each token was written, the past fading away; never changed in place."""

    tokens: Int[np.ndarray, " distinct"] = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Float[np.ndarray, " distinct"] = field(default_factory=lambda: np.empty(0, np.float64))

    def after(self, token: int, decay: float, uncounted: Collection[int] = ()) -> Counts:
        """Return the counts when one more token has been written.

        decay      what remains of the counts of before
        uncounted  tokens whose count stays zero
        """
        counts = self.counts * decay
        gain = 0.0 if token in uncounted else 1.0
        place = np.flatnonzero(self.tokens == token)
        if len(place):
            counts[place] += gain
            return Counts(tokens=self.tokens, counts=counts)
        return Counts(tokens=np.append(self.tokens, token), counts=np.append(counts, gain))

    @classmethod
    def of(cls, tokens: Iterable[int], decay: float, uncounted: Collection[int] = ()) -> Counts:
        """Return the counts when these tokens have been written, the first of them first."""
        counts = cls()
        for token in tokens:
            counts = counts.after(token, decay, uncounted)
        return counts


def reference_uncounted(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that the reference pipeline does not count: the digits, the space and the tab.

    It asks whether the text of the token is a part of all these in a row, so "12" is not counted, "21" is.
    """
    size = len(_REFERENCE_UNCOUNTED)
    parts = {_REFERENCE_UNCOUNTED[i:j] for i in range(size) for j in range(i + 1, size + 1)}
    encoded = map(tokenizer.encode, parts)
    return frozenset(ids[0] for ids in encoded if len(ids) == 1)
