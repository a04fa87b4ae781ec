"""What the items of a task come to, and how surely: means, ratios, perplexities, and their differences.

Every figure is f(sum of x / sum of w) over the items: a mean where each w is 1, bits per byte where w is the
bytes of a text, and f is the exponential in a perplexity. How much one item moves it, to first order, is its
influence; the standard error is that of the mean influence (the delta method), which for a plain mean is the
usual one. Two models that answered the same items differ by something whose influences are the differences,
so what is easy or hard for both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # of the normal distribution, 95 % of which lies within so many deviations

# Of values that are 0 or 1; the others are means of a logarithm whose exponential is shown, or plain ratios.
PROPORTIONS = frozenset({"acc", "acc_norm", "exact_match"})
PERPLEXITIES = frozenset({"perplexity", "byte_perplexity", "token_perplexity", "word_perplexity"})

Values = Sequence[tuple[float, float]]  # x and w of each item


@dataclass(frozen=True)
class Estimate:
    """A figure, its standard error, and the interval that holds the true one 95 times in 100.

    One item alone has no error and no interval: these are NaN.
    """

    value: float
    standard_error: float
    low: float
    high: float
    items: int


def estimate(metric: str, values: Values) -> Estimate:
    """Return what the items come to.

    The interval of a proportion is Wilson's, that of a perplexity is symmetric in its logarithm.
    """
    ratio, influence = _influences(values)
    if metric in PROPORTIONS and len(values) > 1:
        return Estimate(ratio, _standard_error(influence), *_wilson(ratio, len(values)), len(values))
    return _estimate(metric, ratio, influence)


def comparison(metric: str, values: Values, base: Values) -> Estimate:
    """Return by how much a figure is above that of the base, and a perplexity how many times it.

    Both are of the same items in the same order.
    """
    (ours, influence), (theirs, base_influence) = _influences(values), _influences(base)
    return _estimate(metric, ours - theirs, influence - base_influence)


def _estimate(metric: str, ratio: float, influence: NDArray[np.float64]) -> Estimate:
    error = _standard_error(influence)
    figures = ratio, ratio - Z * error, ratio + Z * error
    if metric in PERPLEXITIES:
        figures = _exp(figures[0]), _exp(figures[1]), _exp(figures[2])
        error *= figures[0]
    return Estimate(figures[0], error, figures[1], figures[2], len(influence))


def _influences(values: Values) -> tuple[float, NDArray[np.float64]]:
    """Return sum of x / sum of w, and of each item how far more of it would move that, times their number."""
    x, w = np.array(values, dtype=np.float64).T
    ratio = float(x.sum() / w.sum())
    return ratio, (x - ratio * w) / w.mean()


def _standard_error(influence: NDArray[np.float64]) -> float:
    return float(influence.std(ddof=1)) / math.sqrt(len(influence)) if len(influence) > 1 else math.nan


def _wilson(share: float, items: int) -> tuple[float, float]:
    """Return Wilson's score interval, which stays within 0 and 1 and is right near them too."""
    spread = Z * math.sqrt(share * (1 - share) / items + Z**2 / (4 * items**2))
    centre, scale = share + Z**2 / (2 * items), 1 + Z**2 / items
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _exp(power: float) -> float:
    return math.inf if power > 700 else math.exp(power)  # of NaN, NaN
