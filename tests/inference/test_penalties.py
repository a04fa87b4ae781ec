"""Penalties are those of the reference pipeline, and the counts are a pure function of what was written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.inference.generate import generate
from receptance.inference.penalties import Counts, reference_uncounted
from receptance.inference.reading import read
from receptance.inference.sampling import Sampling, uniform
from receptance.tokenizers import load_tokenizer
from tests.inference.models import random_model

BYTES = load_tokenizer("bytes")
TOKENS = st.lists(st.integers(0, 5), max_size=30)


@settings(deadline=None)
@given(TOKENS, st.floats(0, 1), st.frozensets(st.integers(0, 5)))
def test_a_count_is_the_sum_of_what_is_left_of_each_time(
    tokens: list[int], decay: float, uncounted: frozenset[int]
) -> None:
    counts = Counts.of(tokens, decay, uncounted)
    assert sorted(counts.tokens) == sorted(set(tokens))
    for token, count in zip(counts.tokens, counts.counts, strict=True):
        ages = [age for age, other in enumerate(reversed(tokens)) if other == token]
        expected = 0 if int(token) in uncounted else sum(decay**age for age in ages)
        assert count == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(TOKENS, st.integers(0, 5))
def test_counts_are_not_changed_by_what_comes_after_them(tokens: list[int], token: int) -> None:
    counts = Counts.of(tokens, 0.5)
    before = counts.tokens.copy(), counts.counts.copy()
    counts.after(token, 0.5)
    assert np.array_equal(counts.tokens, before[0])
    assert np.array_equal(counts.counts, before[1])


def test_the_reference_does_not_count_digits_space_and_tab() -> None:
    world = load_tokenizer("world")
    uncounted = reference_uncounted(world)
    expected = {
        token for token in range(1, world.vocabulary_size) if world.decode([token]) in " \t0123456789"
    }
    assert uncounted == expected
    assert len(uncounted) == 22


def written_by_reference(
    monkeypatch: pytest.MonkeyPatch, prompt: str, max_tokens: int, seed: int, **settings: object
) -> list[int]:
    """The tokens that the PyPI package writes with the model and the bytes of these tests."""
    utils = pytest.importorskip("rwkv.utils")
    model = random_model()
    positions = itertools.count(len(prompt))

    class Pipeline(utils.PIPELINE):  # type: ignore[misc,name-defined]  # the package has no types
        def __init__(self) -> None:
            self.model = SimpleNamespace(forward=self.forward)

        def forward(self, tokens: Sequence[int], state: object) -> tuple[torch.Tensor, object]:
            logits, state = read(model, torch.tensor([tokens]), state)  # type: ignore[arg-type]
            return logits[0].clone(), state

        def encode(self, text: str) -> list[int]:
            return BYTES.encode(text)

        def decode(self, tokens: list[int]) -> str:
            return BYTES.decode(tokens)

    def choice(a: int, p: np.ndarray) -> int:
        cumulative = p.astype(np.float64).cumsum()
        chance = uniform(seed, next(positions))
        written.append(int(np.searchsorted(cumulative / cumulative[-1], chance, side="right")))
        return written[-1]

    written: list[int] = []
    monkeypatch.setattr(np.random, "choice", choice)
    Pipeline().generate(prompt, token_count=max_tokens, args=utils.PIPELINE_ARGS(**settings))
    return written


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {"presence_penalty": 0.2, "frequency_penalty": 0.2}),
        (
            {"alpha_presence": 1.5, "alpha_frequency": 0.0, "top_p": 0.5},
            {"presence_penalty": 1.5, "top_p": 0.5},
        ),
        (
            {"alpha_presence": 0.0, "alpha_frequency": 2.0, "alpha_decay": 0.7, "temperature": 0.8},
            {"frequency_penalty": 2.0, "penalty_decay": 0.7, "temperature": 0.8},
        ),
        (
            {"alpha_presence": 0.4, "alpha_frequency": 0.4, "token_ban": [0, 101, 32], "top_k": 20},
            {"presence_penalty": 0.4, "frequency_penalty": 0.4, "ban": [0, 101, 32], "top_k": 20},
        ),
    ],
)
def test_the_loop_writes_what_the_reference_pipeline_writes(
    monkeypatch: pytest.MonkeyPatch, theirs: dict[str, object], ours: dict[str, object]
) -> None:
    bans = {"token_ban": [0], **theirs}  # the reference does not end at the end of the text
    expected = written_by_reference(monkeypatch, "Once 12", 60, seed=4, **bans)
    sampling = Sampling(seed=4, **{"ban": [0], **ours})  # type: ignore[arg-type]  # fields of one type each
    pieces = generate(random_model(), BYTES, BYTES.encode("Once 12"), max_tokens=60, sampling=sampling)
    assert [piece.token for piece in pieces] == expected
    plain = Sampling(seed=4, ban=[0], top_p=sampling.top_p, top_k=sampling.top_k)
    unpenalised = generate(random_model(), BYTES, BYTES.encode("Once 12"), max_tokens=60, sampling=plain)
    assert [piece.token for piece in unpenalised] != expected


def test_which_tokens_do_not_count_can_be_said() -> None:
    def written(**settings: object) -> list[int]:
        sampling = Sampling(temperature=0, ban=[0], frequency_penalty=50.0, penalty_decay=1.0, **settings)  # type: ignore[arg-type]
        return [
            piece.token for piece in generate(random_model(), BYTES, b"a", max_tokens=8, sampling=sampling)
        ]

    assert len(set(written())) == 8  # nothing comes twice
    all_tokens = written(uncounted=range(256))
    plain = Sampling(temperature=0, ban=[0])
    assert all_tokens == [
        piece.token for piece in generate(random_model(), BYTES, b"a", max_tokens=8, sampling=plain)
    ]
