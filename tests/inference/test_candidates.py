"""The cuts keep what they are defined to keep, whatever way of finding it is taken."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.inference.candidates import FEW, Candidates
from receptance.inference.sampling import Sampling, distribution

SCORES = st.lists(st.sampled_from([0.0, -0.5, -1.0, -1.5, -7.0, -40.0, -math.inf]), min_size=1, max_size=30)
SHARES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))


def candidates_of(values: list[float]) -> Candidates:
    return Candidates.of(np.array([0.0, *values]))


def weights_of(candidates: Candidates) -> np.ndarray:
    weights: np.ndarray = np.exp(candidates.scores)
    return weights


@settings(deadline=None)
@given(SCORES, SHARES)
def test_top_p_keeps_the_fewest_values_that_together_reach_the_share(
    values: list[float], share: float
) -> None:
    whole = candidates_of(values)
    kept = whole.top_p(share)
    needed = share * weights_of(whole).sum()
    assert weights_of(kept).sum() >= needed * (1 - 1e-12)
    least = kept.scores.min()
    above = weights_of(whole)[whole.scores > least].sum()
    assert above <= needed * (1 + 1e-12)
    assert set(kept.ids) == set(np.flatnonzero(whole.scores >= least))


@settings(deadline=None)
@given(SCORES, st.integers(0, 40))
def test_top_k_keeps_the_k_most_likely_and_the_equals_of_the_last(values: list[float], count: int) -> None:
    whole = candidates_of(values)
    least = sorted(whole.scores, reverse=True)[: count or None][-1]
    assert whole.top_k(count).ids.tolist() == [
        i for i, score in enumerate(whole.scores) if score >= least or not 0 < count < len(whole.scores)
    ]


@settings(deadline=None)
@given(SCORES, SHARES)
def test_min_p_keeps_what_is_likely_beside_the_most_likely(values: list[float], share: float) -> None:
    whole = candidates_of(values)
    kept = whole.min_p(share)
    assert set(kept.ids) == {i for i, weight in enumerate(weights_of(whole)) if weight >= share}


@settings(deadline=None)
@given(SCORES, st.floats(0, 1, exclude_max=True))
def test_typical_p_keeps_a_typical_share_and_nothing_impossible(values: list[float], share: float) -> None:
    whole = candidates_of(values)
    kept = whole.typical_p(share)
    assert np.isfinite(kept.scores).all()
    assert weights_of(kept).sum() >= share * weights_of(whole).sum() * (1 - 1e-12)
    total = weights_of(whole).sum()
    information = {i: math.log(total) - score for i, score in enumerate(whole.scores) if score > -math.inf}
    entropy = sum(math.exp(-value) * value for value in information.values())
    distance = {i: abs(value - entropy) for i, value in information.items()}
    farthest = max(distance[i] for i in kept.ids)
    assert all(i in kept.ids for i, value in distance.items() if value < farthest - 1e-9)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.85, 0.99, 0.999999])
@pytest.mark.parametrize("shape", ["normal", "peaked", "flat", "equal", "two values", "steep"])
def test_top_p_of_many_is_that_of_a_full_sort(shape: str, share: float) -> None:
    """More tokens than are sorted at once."""
    generator = np.random.default_rng(1)
    size = 20 * FEW
    scores = {
        "normal": generator.normal(size=size) * 2,
        "peaked": np.where(
            np.arange(size) < 50, generator.normal(size=size) + 12, generator.normal(size=size)
        ),
        "flat": generator.normal(size=size) * 1e-6,
        "equal": np.zeros(size),
        "two values": generator.integers(0, 2, size).astype(float),
        "steep": -generator.permutation(size) * 1e-2,
    }[shape]
    whole = Candidates.of(scores - scores.max())
    descending = np.sort(weights_of(whole))[::-1]
    cumulative = descending.cumsum()
    cutoff = descending[np.argmax(cumulative >= share * cumulative[-1])]
    kept = weights_of(whole) >= cutoff
    # Sums of other orders differ in their last digit, which may take one value more or less.
    assert abs(len(whole.top_p(share).ids) - kept.sum()) <= (1 if shape not in ("equal", "two values") else 0)
    assert np.array_equal(weights_of(whole.top_p(share)).min(), cutoff) or share == 0.999999


def by_transformers(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What transformers would draw from: its processors in the order in which it sets them up."""
    processors = pytest.importorskip("transformers.generation.logits_process")
    row, no_tokens = logits[None], torch.zeros(1, 0, dtype=torch.int64)
    chain = [processors.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        chain.append(processors.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(processors.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(processors.MinPLogitsWarper(sampling.min_p))
    if sampling.typical_p < 1:
        chain.append(processors.TypicalLogitsWarper(sampling.typical_p))
    for process in chain:
        row = process(no_tokens, row)
    return row[0].softmax(-1)


@pytest.mark.parametrize("vocabulary", [11, 5000])
@pytest.mark.parametrize(
    "chosen",
    [
        {"top_p": 1.0},
        {"temperature": 0.6, "top_p": 0.8},
        {"temperature": 1.7, "top_p": 0.3},
        {"temperature": 0.8, "top_p": 1.0, "top_k": 7},
        {"temperature": 1.4, "top_p": 0.7, "top_k": 9},
        {"temperature": 2.5, "top_p": 1.0, "min_p": 0.02},
        {"temperature": 0.9, "top_p": 1.0, "typical_p": 0.4},
        {"temperature": 1.2, "top_p": 1.0, "typical_p": 0.95},
        {"temperature": 1.3, "top_p": 0.95, "top_k": 300, "min_p": 0.01, "typical_p": 0.9},
    ],
    ids=str,
)
def test_with_the_temperature_first_the_distribution_is_that_of_transformers(
    vocabulary: int, chosen: dict[str, float]
) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2
    sampling = Sampling(temperature_first=True, **chosen)  # type: ignore[arg-type]  # fields of one type each
    expected = by_transformers(logits, sampling)
    ours = distribution(logits, sampling)
    assert torch.equal(ours > 0, expected > 0)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=0)
    narrow = distribution(logits.float(), sampling)
    torch.testing.assert_close(
        narrow, by_transformers(logits.float(), sampling).double(), rtol=1e-4, atol=1e-8
    )
