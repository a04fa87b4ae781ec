"""Figures and their errors, against what resampling the items many times shows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from receptance.evaluation.estimates import Z, comparison, estimate

RNG = np.random.default_rng(0)
COUNT = 400
WEIGHTS = RNG.uniform(1, 9, COUNT)
CASES = {
    "acc": (RNG.integers(0, 2, COUNT).astype(float), np.ones(COUNT)),
    "perplexity": (RNG.gamma(2.0, 1.0, COUNT), np.ones(COUNT)),
    "bits_per_byte": (WEIGHTS * RNG.uniform(0.5, 1.5, COUNT), WEIGHTS),
    "token_perplexity": (WEIGHTS * RNG.uniform(0.5, 1.5, COUNT), WEIGHTS),
}
Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]


def pairs(case: Pairs) -> list[tuple[float, float]]:
    return list(zip(case[0].tolist(), case[1].tolist(), strict=True))


def figure(metric: str, x: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = x.sum(-1) / w.sum(-1)
    return np.exp(ratio) if "perplexity" in metric else ratio


def resampled(function: Callable[[NDArray[np.intp]], NDArray[np.float64]]) -> NDArray[np.float64]:
    return function(np.random.default_rng(1).integers(0, COUNT, (4000, COUNT)))


@pytest.mark.parametrize("metric", CASES)
def test_errors_and_intervals_are_those_that_resampling_shows(metric: str) -> None:
    x, w = CASES[metric]
    found = estimate(metric, pairs((x, w)))
    assert found.value == pytest.approx(float(figure(metric, x, w)))
    draws = resampled(lambda chosen: figure(metric, x[chosen], w[chosen]))
    assert found.standard_error == pytest.approx(draws.std(), rel=0.06)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.3 * draws.std())


@pytest.mark.parametrize("metric", CASES)
def test_what_is_hard_for_both_models_does_not_blur_their_comparison(metric: str) -> None:
    x, w = CASES[metric]
    other = 1 - x if metric == "acc" else x * 1.1 + 0.05 * RNG.standard_normal(COUNT)
    if metric == "acc":
        other[: COUNT // 2] = x[: COUNT // 2]
    found = comparison(metric, pairs((other, w)), pairs((x, w)))
    is_ratio = "perplexity" in metric

    def compared(chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        ours, theirs = figure(metric, other[chosen], w[chosen]), figure(metric, x[chosen], w[chosen])
        return ours / theirs if is_ratio else ours - theirs

    assert found.value == pytest.approx(float(compared(np.arange(COUNT))))
    assert found.standard_error == pytest.approx(resampled(compared).std(), rel=0.06)


def test_the_error_of_a_mean_is_the_usual_one_and_a_proportion_s_interval_is_wilson_s() -> None:
    found = estimate("acc", [(1.0, 1.0)] * 7 + [(0.0, 1.0)] * 3)
    assert found.standard_error == pytest.approx(math.sqrt(0.7 * 0.3 / 9))
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611.
    found = estimate("acc", [(1.0, 1.0)] * 81 + [(0.0, 1.0)] * 182)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    found = estimate("acc", [(0.0, 1.0)] * 20)
    assert (found.low, found.high) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_a_single_item_has_a_value_and_no_error() -> None:
    found = estimate("bits_per_byte", [(6.0, 3.0)])
    assert found.value == 2.0
    assert all(map(math.isnan, (found.standard_error, found.low, found.high)))


def test_a_perplexity_beyond_all_numbers_is_infinite() -> None:
    assert estimate("perplexity", [(1e4, 1.0), (1.1e4, 1.0)]).value == math.inf


def test_z_is_the_normal_quantile() -> None:
    assert math.erf(Z / math.sqrt(2)) == pytest.approx(0.95, abs=1e-14)
