"""Losses of texts: whole, in windows and by position, against one pass over each part of the text alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance.errors import ConfigError
from receptance.evaluation.perplexity import Window, by_position, token_losses
from tests.inference.models import random_model

MODEL = random_model(vocabulary_size=11)
PREFIX = [10]


def losses_of(context: list[int], text: list[int]) -> Tensor:
    """The losses of the tokens of a text after a context, in one pass."""
    with torch.inference_mode():
        said = MODEL(torch.tensor([[*context, *text]]))[0][0].double().log_softmax(-1)
    return -said[torch.arange(len(context) - 1, len(context) + len(text) - 1), torch.tensor(text)]


def text_of(length: int, seed: int = 0) -> list[int]:
    tokens: list[int] = torch.randint(11, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return tokens


def test_a_whole_text_is_read_with_its_state_carried_to_the_end() -> None:
    texts = [text_of(length, length) for length in (1, 700, 33, 0)]
    found = dict(token_losses(MODEL, texts, prefix=PREFIX, batch_size=2))
    assert sorted(found) == [0, 1, 2, 3]
    assert found[3].shape == (0,)
    for index, text in enumerate(texts[:3]):
        torch.testing.assert_close(found[index].double(), losses_of(PREFIX, text), atol=1e-4, rtol=0)


@settings(max_examples=60)
@given(
    st.integers(0, 40), st.integers(1, 9).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))
)
def test_windows_score_every_token_once_in_the_first_that_holds_it(
    length: int, window: tuple[int, int]
) -> None:
    size, stride = window
    text = list(range(100, 100 + length))
    requests = list(Window(size=size, stride=stride).requests(text, [0]))
    assert [token for request in requests for token in request.continuation] == text
    first_scored = 0
    for request in requests:
        seen = [*request.context[1:], *request.continuation]
        assert len(seen) <= size
        assert seen == text[first_scored + len(request.continuation) - len(seen) :][: len(seen)]
        assert len(request.context) - 1 == (size - stride if first_scored else 0)
        first_scored += len(request.continuation)


def test_the_losses_in_windows_are_those_of_the_windows_alone() -> None:
    text = text_of(23)
    ((_, found),) = token_losses(MODEL, [text], prefix=PREFIX, window=Window(size=10, stride=4))
    expected = [losses_of(PREFIX, text[:10])]
    expected += [losses_of(PREFIX, text[begin : begin + 10])[6:] for begin in (4, 8, 12, 16)]
    torch.testing.assert_close(found.double(), torch.cat(expected), atol=2e-5, rtol=0)


def test_one_window_over_everything_is_the_whole_text() -> None:
    text = text_of(50)
    ((_, whole),) = token_losses(MODEL, [text], prefix=PREFIX)
    ((_, window),) = token_losses(MODEL, [text], prefix=PREFIX, window=Window(size=64, stride=1))
    assert torch.equal(whole, window)


def test_the_loss_by_position_is_a_mean_over_the_same_texts_at_every_position() -> None:
    texts = [torch.arange(6.0), torch.arange(5.0) + 2, torch.full((3,), 99.0)]
    first, second, rest = by_position(texts, 5, edges=[0, 1, 2])
    assert (first.begin, first.end, first.nats, first.texts) == (0, 1, 1.0, 2)
    assert (second.begin, second.end, second.nats) == (1, 2, 2.0)
    assert (rest.begin, rest.end, rest.nats) == (2, 5, 4.0)
    assert rest.standard_error == pytest.approx(1.0)  # means 3 and 5: deviation √2, over √2
    doubling = by_position(texts, 5)
    assert [(each.begin, each.end) for each in doubling] == [(0, 1), (1, 2), (2, 4), (4, 5)]
    assert math.isnan(by_position(texts[:1], 6)[0].standard_error)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="stride of the windows is 5, but it must be from 1 to their size, 4"
    ):
        Window(size=4, stride=5)
    with pytest.raises(ConfigError, match="no text has 9 tokens"):
        by_position([torch.zeros(8)], 9)
    with pytest.raises(ConfigError, match="must begin with 0 and rise"):
        by_position([torch.zeros(8)], 8, edges=[1, 3])
