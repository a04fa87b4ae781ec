"""Sampling draws from exactly the distribution that its order of cuts defines, and seeds reproduce."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.errors import ConfigError
from receptance.inference.penalties import Counts
from receptance.inference.sampling import (
    SEEDS,
    Sampling,
    SamplingSettings,
    distribution,
    log_probabilities,
    sample,
    uniform,
)

SETTINGS = [
    (1.0, 0.85, 0),
    (0.5, 0.6, 0),
    (2.0, 0.9, 5),
    (1.3, 1.0, 3),
    (0.2, 0.0, 0),
    (0.7, 0.3, 40),
]


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def drawn_by_reference(
    monkeypatch: pytest.MonkeyPatch, logits: torch.Tensor, temperature: float, top_p: float, top_k: int
) -> torch.Tensor:
    """What the PyPI package would draw from: the probabilities that it hands to numpy."""
    utils = pytest.importorskip("rwkv.utils")
    seen: list[np.ndarray] = []

    def choice(a: int, p: np.ndarray) -> int:
        seen.append(p.copy())
        return 0

    monkeypatch.setattr(np.random, "choice", choice)
    utils.PIPELINE.sample_logits(None, logits.clone(), temperature=temperature, top_p=top_p, top_k=top_k)
    return torch.from_numpy(seen[0]).double()


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), SETTINGS)
@pytest.mark.parametrize("vocabulary", [7, 256, 5000])
def test_the_distribution_is_that_of_the_reference_pipeline(
    monkeypatch: pytest.MonkeyPatch, vocabulary: int, temperature: float, top_p: float, top_k: int
) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    # At 1 the reference keeps one token alone where rounding leaves its sum below 1: ask it for just less.
    expected = drawn_by_reference(monkeypatch, logits, temperature, 0.99999 if top_p == 1 else top_p, top_k)
    ours = distribution(logits, Sampling(temperature=temperature, top_p=top_p, top_k=top_k))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), SETTINGS)
def test_the_same_chance_draws_the_token_that_the_reference_draws(
    temperature: float, top_p: float, top_k: int
) -> None:
    utils = pytest.importorskip("rwkv.utils")
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(2)) * 2
    ours = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    theirs = {"temperature": temperature, "top_p": 0.99999 if top_p == 1 else top_p, "top_k": top_k}
    for seed in range(100):
        np.random.seed(seed)  # the generator that the reference uses
        expected = utils.PIPELINE.sample_logits(None, logits.clone(), **theirs)
        np.random.seed(seed)
        assert int(sample(logits, ours, np.random.random_sample())) == expected


def test_the_temperature_can_come_first() -> None:
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    ours = distribution(logits, Sampling(temperature=0.5, top_p=0.6, temperature_first=True))
    torch.testing.assert_close(ours, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))


def test_at_temperature_one_without_top_k_the_orders_are_one() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(4)) * 3
    cuts = {"top_p": 0.8, "min_p": 0.01, "typical_p": 0.7}
    first, last = (distribution(logits, Sampling(temperature_first=first, **cuts)) for first in (True, False))
    torch.testing.assert_close(first, last)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bias_is_added_and_bans_are_kept(temperature: float) -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0])
    sampling = Sampling(temperature=temperature, top_p=1, logit_bias={3: 2.5, 1: -math.inf}, ban=[0])
    ours = distribution(logits, sampling)
    expected = torch.tensor([-math.inf, -math.inf, 1.0, 2.5], dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(ours, expected if temperature else torch.eye(4, dtype=torch.float64)[3])
    assert logits.tolist() == [3.0, 2.0, 1.0, 0.0]


def test_penalties_are_taken_from_the_logits_of_what_was_written() -> None:
    counts = Counts(tokens=np.array([2, 0]), counts=np.array([1.5, 0.0]))
    sampling = Sampling(top_p=1, presence_penalty=0.25, frequency_penalty=0.5)
    ours = distribution(torch.zeros(4, dtype=torch.float64), sampling, counts)
    expected = torch.tensor([-0.25, 0, -1.0, 0], dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(ours, expected)


def test_log_probabilities_are_the_models_own_and_the_most_likely_come_first() -> None:
    logits = torch.tensor([0.5, 2.0, -1.0, 2.0, -math.inf])
    expected = logits.double().log_softmax(-1)
    chosen, top = log_probabilities(logits, 2, top=3)
    assert chosen == pytest.approx(float(expected[2]))
    assert [token for token, _ in top] == [1, 3, 0]
    assert [value for _, value in top] == pytest.approx(expected[[1, 3, 0]].tolist())
    assert log_probabilities(logits, 2) == (chosen, ())
    assert log_probabilities(logits, 2, top=1)[1] == top[:1]
    assert len(log_probabilities(logits, 2, top=99)[1]) == 5


def test_the_settings_by_name_are_the_fields_but_the_seed() -> None:
    assert {field.name for field in fields(Sampling)} - {"seed"} == set(SamplingSettings.__annotations__)


def test_top_p_is_cut_before_the_temperature() -> None:
    # With the temperature first, the most likely token alone would have 0.685, and be left alone.
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    ours = distribution(logits, Sampling(temperature=0.5, top_p=0.6))
    torch.testing.assert_close(ours, torch.tensor([0.25, 0.09, 0, 0], dtype=torch.float64) / 0.34)


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1, 0, 5),
        (0, 0, 1),
        (0.4, 0, 1),
        (0.41, 0, 3),
        (0.81, 0, 5),
        (1, 1, 1),
        (1, 2, 3),
        (1, 3, 3),
        (1, 9, 5),
        (0.41, 1, 1),
    ],
)
def test_equal_probabilities_are_kept_or_cut_together(top_p: float, top_k: int, kept: int) -> None:
    ours = distribution(logits_of(0.1, 0.2, 0.4, 0.2, 0.1), Sampling(top_p=top_p, top_k=top_k))
    assert int((ours > 0).sum()) == kept


def test_temperature_zero_takes_the_first_of_the_most_likely_whatever_the_chance() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 3.0])
    tokens = [int(sample(logits, Sampling(temperature=0), chance)) for chance in (0.0, 0.5, 1 - 2**-53)]
    assert tokens == [1, 1, 1]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-3, 1e3, 1e300])
def test_extreme_temperatures_neither_overflow_nor_underflow(temperature: float) -> None:
    logits = torch.tensor([-2e4, 3.0, 5.0, -math.inf, 4.9])
    ours = distribution(logits, Sampling(temperature=temperature, top_p=1))
    assert ours.sum().item() == pytest.approx(1)
    assert ours[2] == ours.max()
    assert ours[3] == 0


def test_a_cut_deep_in_a_large_flat_vocabulary_is_exact() -> None:
    """More candidates than are sorted at once."""
    probabilities = torch.linspace(1, 2, 65536, dtype=torch.float64)
    probabilities /= probabilities.sum()
    ours = distribution(probabilities.log(), Sampling(top_p=0.5))
    descending = probabilities.flip(0).cumsum(0)
    assert int((ours > 0).sum()) == int((descending < 0.5).sum()) + 1


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 20,000 draws, seeded: 99.9 % of fair samplers stay below the limit."""
    logits = torch.randn(12, generator=torch.Generator().manual_seed(1)) * 1.5
    sampling = Sampling(temperature=0.8, top_p=0.9, seed=7)
    draws = 20_000
    chances = torch.tensor([uniform(7, position) for position in range(draws)], dtype=torch.float64)
    counts = torch.bincount(sample(logits.expand(draws, -1), sampling, chances), minlength=12).double()
    expected = distribution(logits, sampling) * draws
    kept = expected > 0
    assert counts[~kept].sum() == 0
    statistic = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    degrees = int(kept.sum()) - 1
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


def test_a_row_is_drawn_alike_alone_and_in_a_batch() -> None:
    logits = torch.randn(2, 3, 300, generator=torch.Generator().manual_seed(2)) * 3
    chances = torch.tensor([[uniform(9, 3 * i + j) for j in range(3)] for i in range(2)], dtype=torch.float64)
    sampling = Sampling(temperature=1.4, top_p=0.95, top_k=50)
    together = sample(logits, sampling, chances)
    alone = [[int(sample(logits[i, j], sampling, float(chances[i, j]))) for j in range(3)] for i in range(2)]
    assert together.tolist() == alone


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.floats(-1e4, 1e4), st.just(-math.inf)), min_size=1, max_size=40),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 3),
    st.floats(0, 1),
    st.integers(0, 50),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
)
def test_what_is_drawn_always_has_a_probability(
    values: list[float],
    chance: float,
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    typical_p: float,
    temperature_first: bool,
) -> None:
    values[0] = 0.0  # one finite value at least
    logits = torch.tensor(values, dtype=torch.float64)
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        typical_p=typical_p,
        temperature_first=temperature_first,
    )
    probabilities = distribution(logits, sampling)
    assert probabilities.sum().item() == pytest.approx(1)
    token = sample(logits, sampling, chance)
    assert probabilities[token] > 0
    assert sample(logits, sampling, chance) == token


def test_the_largest_chance_still_draws_a_candidate() -> None:
    """Sums of probabilities round to below one as often as not."""
    logits = torch.randn(500, 100, generator=torch.Generator().manual_seed(3))
    logits[:, -1] = -math.inf
    chances = torch.full((500,), 1 - 2**-53, dtype=torch.float64)
    assert int(sample(logits, Sampling(top_p=1), chances).max()) < 99


@settings(deadline=None)
@given(st.integers(0, SEEDS - 1), st.integers(0, 2**40))
def test_chance_is_a_function_of_seed_and_position(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position)
    assert uniform(seed, position) != uniform(seed, position + 1)


def philox(key: int, counter: int) -> int:
    """First 64 bits of Philox4x64-10, as Salmon et al. (2011) write it."""
    mask = 2**64 - 1
    words, keys = [counter & mask, counter >> 64, 0, 0], [key, 0]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [
            (second >> 64) ^ words[1] ^ keys[0],
            second & mask,
            (first >> 64) ^ words[3] ^ keys[1],
            first & mask,
        ]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) & mask, (keys[1] + 0xBB67AE8584CAA73B) & mask]
    return words[0]


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (42, 1000), (2**64 - 1, 10**12)])
def test_a_seed_gives_the_same_chances_on_every_machine_and_version(seed: int, position: int) -> None:
    assert uniform(seed, position) == (philox(seed, position + 1) >> 11) / 2**53


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 2.0}, "top_p is 2"),
        ({"top_p": -0.1}, "top_p is -0.1"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"typical_p": math.nan}, "typical_p is nan"),
        ({"presence_penalty": math.inf}, "presence_penalty is inf"),
        ({"frequency_penalty": math.nan}, "frequency_penalty is nan"),
        ({"penalty_decay": 1.1}, "penalty_decay is 1.1"),
        ({"logit_bias": {3: math.nan}}, "logit_bias adds nan to token 3"),
        ({"logit_bias": {3: math.inf}}, "logit_bias adds inf to token 3"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": SEEDS}, "seed is 18446744073709551616"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Sampling(**settings)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("values", [[0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf]])
def test_logits_that_are_not_finite_are_refused(values: list[float], temperature: float) -> None:
    with pytest.raises(ConfigError, match="overflows in its number format or has diverged"):
        sample(torch.tensor(values), Sampling(temperature=temperature), 0.5)


@pytest.mark.parametrize("settings", [{"ban": [0, 1]}, {"ban": [0], "logit_bias": {1: -math.inf}}], ids=str)
def test_when_all_tokens_are_banned_the_error_says_so(settings: SamplingSettings) -> None:
    with pytest.raises(ConfigError, match="all tokens are banned"):
        sample(torch.zeros(2), Sampling(**settings), 0.5)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"ban": [1, 7]}, "ban names token 7"), ({"logit_bias": {-1: 0.0}}, "logit_bias names token -1")],
)
def test_tokens_outside_the_vocabulary_are_refused(settings: SamplingSettings, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        sample(torch.zeros(7), Sampling(**settings), 0.5)
