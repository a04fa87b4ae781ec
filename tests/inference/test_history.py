"""Wherever a text goes back to, goes on from or divides, it reads as if it had been read in one go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.errors import ConfigError
from receptance.inference.generate import go_on
from receptance.inference.history import History
from receptance.inference.reading import read
from receptance.inference.sampling import Sampling
from receptance.models import AnyModel, State
from receptance.tokenizers import load_tokenizer
from tests.inference.models import random_model
from tests.models.examples import EXAMPLES, example

BYTES = load_tokenizer("bytes")
TOKENS = st.lists(st.integers(0, 28), max_size=6)


class Watched:
    """A model that notes how many tokens it reads."""

    def __init__(self, model: AnyModel) -> None:
        self.config, self.device, self._model = model.config, model.device, model
        self.spans: list[int] = []

    def __call__(
        self, tokens: torch.Tensor, state: State | None = None, *, last_only: bool = False
    ) -> tuple[torch.Tensor, State]:
        self.spans.append(tokens.shape[1])
        logits, state = self._model(tokens, state)
        return logits[:, -1:] if last_only else logits, state


def logits_of(model: AnyModel, tokens: Sequence[int]) -> torch.Tensor:
    logits, _ = read(model, torch.tensor([list(tokens)]))
    return logits[0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("extend"), TOKENS),
            st.tuples(st.just("follow"), TOKENS),
            st.tuples(st.just("rewind"), st.floats(0, 1)),
            st.tuples(st.sampled_from(["keep", "fork", "read"]), st.none()),
        ),
        max_size=12,
    )
)
@pytest.mark.parametrize("generation", ["4", "7"])
def test_whatever_was_done_before_the_next_logits_are_those_of_the_text(
    generation: str, steps: list[tuple[str, list[int] | float | None]]
) -> None:
    model = example(generation, torch.float64)
    history, text = History(model), list[int]()
    for name, argument in steps:
        match name, argument:
            case "extend", [*tokens]:
                history.extend(tokens)
                text += tokens
            case "follow", [*tokens]:
                common = history.follow(tokens)
                assert text[:common] == tokens[:common]
                assert text[common : common + 1] != tokens[common : common + 1] or common == len(text)
                text = list(tokens)
            case "rewind", float(share):
                position = round(share * len(text))
                history.rewind(position)
                text = text[:position]
            case "keep", _:
                assert history.keep() == len(text)
            case "fork", _:
                other, history = history, history.fork()
                other.extend([1, 2, 3])
                other.keep()
                other.rewind(0)
            case "read", _:
                assert (history.state is None) == (not text)
        assert history.tokens == tuple(text)
        assert len(history) == len(text)
        assert set(history.kept) <= set(range(len(text) + 1))
    if text:
        torch.testing.assert_close(history.next_logits(), logits_of(model, text))
    else:
        with pytest.raises(ConfigError, match="no tokens yet"):
            history.next_logits()


def test_kept_positions_are_gone_back_to_without_reading() -> None:
    model = Watched(random_model())
    history = History(model)
    history.extend(range(1, 101))
    assert history.keep() == 100
    before = history.next_logits()
    history.extend([1, 2, 3])
    history.next_logits()
    history.rewind(100)
    assert torch.equal(history.next_logits(), before)
    assert model.spans == [100, 3]
    history.rewind(90)  # which was not kept: read again from the beginning, the last kept position before it
    history.next_logits()
    assert model.spans == [100, 3, 90]
    assert history.kept == (0,)


def test_what_two_texts_have_in_common_is_not_read_again() -> None:
    model = Watched(random_model())
    history = History(model)
    history.extend(range(50))
    history.keep()
    history.extend(range(50, 80))
    history.next_logits()
    assert history.follow([*range(80), 7, 8]) == 80
    history.next_logits()
    assert history.follow([*range(60), 9]) == 60  # goes back to 50
    history.next_logits()
    assert model.spans == [50, 30, 2, 11]


def test_nothing_is_read_before_somebody_asks_and_nothing_twice() -> None:
    model = Watched(random_model())
    history = History(model)
    history.extend([1, 2])
    history.extend([3])
    assert model.spans == []
    history.next_logits()
    history.next_logits()
    assert history.state is history.state
    assert model.spans == [3]


def test_a_fork_shares_its_points_and_nothing_else() -> None:
    history = History(random_model())
    history.extend([1, 2, 3])
    history.keep()
    fork = history.fork()
    assert fork.points[3].state is history.points[3].state
    fork.extend([4])
    fork.forget(3)
    assert (len(history), history.kept) == (3, (0, 3))
    assert (len(fork), fork.kept) == (4, (0,))


def test_positions_that_are_not_there_and_tokens_that_nobody_knows_are_refused() -> None:
    history = History(random_model())
    history.extend([1, 2, 3])
    for position in (-1, 4):
        with pytest.raises(ConfigError, match=f"position is {position}, but the text goes from 0 to 3"):
            history.rewind(position)
    for position in (0, 2):
        with pytest.raises(ConfigError, match=f"position {position} was not kept, or it is the beginning"):
            history.forget(position)
    with pytest.raises(ConfigError, match="Token 256 is unknown"):
        history.extend([1, 256])
    with pytest.raises(ConfigError, match="Token -1 is unknown"):
        history.follow([1, -1])
    assert history.tokens == (1, 2, 3)
    with pytest.raises(ConfigError, match="begins from the state of one text"):
        History(random_model(), random_model().initial_state(2))


def test_what_the_model_wrote_is_known_until_it_is_handed_tokens() -> None:
    history = History(random_model())
    history.extend([1, 2, 3])
    assert history.written == ()
    history.append(4)
    history.append(5)
    assert history.written == (4, 5)
    history.extend([])
    assert history.written == (4, 5)
    history.rewind(4)
    assert history.written == (4,)
    history.rewind(2)
    assert history.written == ()
    history.append(6)
    history.extend([7])
    assert history.written == ()


@pytest.mark.parametrize("generation", EXAMPLES)
@pytest.mark.parametrize("cut", [1, 5, 19])
def test_written_in_two_parts_is_written_in_one_to_the_bit(generation: str, cut: int) -> None:
    model = example(generation, torch.float32)
    sampling = Sampling(
        seed=5, top_p=1, presence_penalty=0.5, frequency_penalty=0.5, penalty_decay=0.9, ban=[0]
    )
    whole, parted = History(model), History(model)
    prompt = [5, 6, 7]
    expected = [p.token for p in go_on(whole, BYTES, prompt, max_tokens=20, sampling=sampling)]
    written = [p.token for p in go_on(parted, BYTES, prompt, max_tokens=cut, sampling=sampling)]
    written += [p.token for p in go_on(parted, BYTES, max_tokens=20 - cut, sampling=sampling)]
    assert written == expected
    assert torch.equal(whole.next_logits(), parted.next_logits())


def test_a_character_that_was_cut_is_whole_in_the_second_part() -> None:
    history = History(random_model())
    history.extend([65])
    for token in "漢".encode()[:2]:
        history.append(token)
    rest = "漢".encode()[2]
    certain = Sampling(temperature=0, logit_bias={rest: 1e9})
    (piece,) = go_on(history, BYTES, max_tokens=1, sampling=certain)
    assert piece.text == "漢"
