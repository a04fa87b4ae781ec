"""Guesses are those that a plain search, or the smaller model itself, would give."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.errors import ConfigError
from receptance.inference.drafts import DraftModel, PromptLookup
from receptance.inference.generate import go_on
from receptance.inference.history import History
from receptance.inference.sampling import Sampling
from receptance.models import RWKV4
from receptance.tokenizers import load_tokenizer
from tests.inference.models import random_model

BYTES = load_tokenizer("bytes")
GREEDY = Sampling(temperature=0, ban=[0])  # which would end the text
MODEL, SMALLER = random_model(), random_model(seed=1)


def searched(tokens: list[int], count: int) -> tuple[int | None, list[int]]:
    """The definition: try every place, the latest first, and take the first of the longest matches."""
    best, source = 0, 0
    for place in range(len(tokens) - 1, 0, -1):  # the match ends before it
        length = 0
        while (
            length < PromptLookup.MOST
            and length < place
            and tokens[place - 1 - length] == tokens[-1 - length]
        ):
            length += 1
        if length > best:
            best, source = length, place
    if best < PromptLookup.FEWEST:
        return None, []
    whole = list(tokens)
    for i in range(count):
        whole.append(whole[source + i])
    return best, whole[len(tokens) :]


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=1, max_size=4),
    st.integers(1, 15),
)
def test_lookup_finds_the_longest_and_latest_match_however_the_text_grew(
    parts: list[list[int]], count: int
) -> None:
    text = History(MODEL)
    lookup = PromptLookup()
    lookup.PLACES = 1000  # type: ignore[misc]  # as many as the definition compares
    lookup.begin(text, GREEDY)
    tokens: list[int] = []
    for part in parts:
        text.extend(part)
        tokens += part
        kind, draft = searched(tokens, count)
        assert lookup.look() == kind
        if kind is not None:
            assert lookup.draft(count) == draft


def test_lookup_compares_few_places_in_a_text_full_of_them() -> None:
    for places, agreeing, draft in (
        (PromptLookup.PLACES - 1, 3, [7, 5, 1]),
        (PromptLookup.PLACES, 2, [9, 1, 2]),
    ):
        text = History(MODEL, tokens=[9, 1, 2, 7] + [5, 1, 2] * places + [9, 1, 2])
        lookup = PromptLookup()
        lookup.begin(text, GREEDY)
        assert lookup.look() == agreeing
        assert lookup.draft(3) == draft


def written(model: RWKV4, sampling: Sampling, prompt: list[int], count: int) -> list[int]:
    pieces = go_on(History(model), BYTES, prompt, max_tokens=count, sampling=sampling)
    return [piece.token for piece in pieces]


SAMPLINGS = (
    GREEDY,
    Sampling(temperature=1.2, top_p=0.9, seed=5, ban=[0]),
    Sampling(top_p=1, presence_penalty=2.0, frequency_penalty=1.0, seed=6, ban=[0], uncounted=()),
)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_same_model_drafts_what_will_be_written(sampling: Sampling) -> None:
    prompt = list(b"Once")
    expected = written(MODEL, sampling, prompt, 40)
    text = History(MODEL, tokens=prompt)
    drafter = DraftModel(lambda: History(MODEL), 256)
    drafter.begin(text, sampling)
    while len(expected) > 5:
        drafter.look()
        assert drafter.draft(5) == expected[:5]
        for token in expected[:3]:  # a part is taken, as if the rest had been wrong
            text.append(token)
        expected = expected[3:]


@settings(max_examples=25)
@given(st.data())
def test_a_draft_model_follows_whatever_is_written_instead(data: st.DataObject) -> None:
    text = History(MODEL, tokens=list(b"Once"))
    drafter = DraftModel(lambda: History(SMALLER), 256)
    drafter.begin(text, GREEDY)
    for _ in range(3):
        count = data.draw(st.integers(1, 4))
        draft = drafter.draft(count)
        assert draft == written(SMALLER, GREEDY, text.since(0), count)
        for token in draft[: data.draw(st.integers(0, count))]:
            text.append(token)
        for token in data.draw(st.lists(st.integers(0, 255), max_size=3)):
            text.append(token)
    assert len(drafter._own.kept) <= 2 + 4  # the beginning, and where the last draft may go back to


def test_a_draft_model_that_does_not_know_the_prompt_is_refused() -> None:
    drafter = DraftModel(lambda: History(MODEL), 256)
    with pytest.raises(ConfigError, match="Token 299 is unknown"):
        drafter.begin(History(random_model(vocabulary_size=300), tokens=[299]), GREEDY)
