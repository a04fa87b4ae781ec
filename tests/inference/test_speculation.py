"""Speculation writes what is written without it: every piece, and every bit of the history that goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError
from receptance.inference.drafts import Drafter, DraftModel, PromptLookup
from receptance.inference.generate import go_on
from receptance.inference.history import History
from receptance.inference.reading import read
from receptance.inference.sampling import Sampling
from receptance.inference.speculation import Speculation
from receptance.models import AnyModel, State
from receptance.quantization.packed import FORMATS, Format
from receptance.runtimes import NativeModel
from receptance.tokenizers import Tokenizer, load_tokenizer
from tests.inference.models import random_model
from tests.models.examples import SIZES, example

BYTES = load_tokenizer("bytes")


class Counted:
    """A runtime that notes how many tokens are read at a time."""

    def __init__(self, model: NativeModel | AnyModel) -> None:
        self.config, self.device, self.model = model.config, model.device, model
        self.sizes: list[int] = []

    def __call__(
        self, tokens: Tensor, state: State | None = None, *, last_only: bool = False
    ) -> tuple[Tensor, State]:
        self.sizes.append(tokens.shape[1])
        logits, after = read(self.model, tokens, state)
        return logits[:, None], after

    def steps(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, Sequence[State]]:
        self.sizes.append(tokens.shape[1])
        if isinstance(self.model, NativeModel):
            return self.model.steps(tokens, state)
        logits, states = [], []
        for token in tokens[0]:  # steps by their definition
            after, state = read(self.model, token.view(1, 1), state)
            logits.append(after)
            states.append(state)
        return torch.stack(logits, dim=1), states

    def time(self) -> float:
        """Tell the time of a machine on which every span takes equally long, so that reading ahead pays."""
        return float(len(self.sizes))


class Oracle:
    """Drafts what it is told will be written, and so much of it wrong; it may be mad."""

    rest = 1

    def __init__(self, choices: Iterator[Any], text: Sequence[int]) -> None:
        self._choices, self._future = choices, text

    def begin(self, text: History, sampling: Sampling) -> None:
        self._text = text

    def look(self) -> int | None:
        return next(self._choices)[0]

    def draft(self, count: int) -> list[int]:
        _, right, wrong = next(self._choices)
        future = self._future[len(self._text) :][: min(right, count)]
        return [*future, *wrong]


def same_state(left: State | None, right: State | None) -> bool:
    if left is None or right is None:
        return left is right
    pairs = zip(left.tensors().values(), right.tensors().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def assert_written_alike(
    model: Counted, tokenizer: Tokenizer, drafter: Drafter, clock: Callable[[], float], **how: Any
) -> Speculation:
    """Write with and without speculation, in one history each, then let both go on."""
    speculation = Speculation(drafter, clock)
    plain, faster = History(model), History(model)
    for prompt in (how.pop("prompt"), ()):
        expected = list(go_on(plain, tokenizer, prompt, **how))
        pieces = list(go_on(faster, tokenizer, prompt, **how, speculation=speculation))
        assert pieces == expected
        assert faster.tokens == plain.tokens
        assert faster.points.keys() == plain.points.keys()
        assert same_state(faster.state, plain.state)
        assert torch.equal(faster.next_logits(), plain.next_logits())
    return speculation


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0, 0.3, 1.0, 1.5]),
    top_p=st.sampled_from([0.3, 0.85, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.5, 3.0]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    penalty_decay=st.sampled_from([0.9, 1.0]),
    logit_bias=st.sampled_from([{}, {0: 3.0}, {97: 2.0}]),
    ban=st.sampled_from([(), (0,), (32, 97)]),
    seed=st.integers(0, 99),
)
CHOICES = st.tuples(
    st.sampled_from([None, 0, 0, 1]),  # the kind of a draft
    st.integers(0, 15),  # how much of it is right
    st.lists(st.sampled_from([5, 0, -1, 256, 10**9]), max_size=3),  # what follows
)
RANDOM = random_model()


@settings(max_examples=25)
@given(
    SAMPLINGS,
    st.integers(1, 20),
    st.lists(CHOICES, min_size=1, max_size=8),
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 9.0]), min_size=1, max_size=7),
    st.sampled_from([None, 0, 2]),
    st.lists(st.integers(1, 3), max_size=2),
)
def test_whatever_is_guessed_and_whatever_takes_long_the_same_is_written(
    sampling: Sampling,
    max_tokens: int,
    choices: list[Any],
    seconds: list[float],
    logprobs: int | None,
    stop_sizes: list[int],
) -> None:
    model, prompt = Counted(RANDOM), list(b"Once upon")
    how = {"max_tokens": max_tokens, "sampling": sampling}
    pieces = list(go_on(History(model), BYTES, prompt, **how))
    text = "".join(piece.text for piece in pieces)
    stop = [text[len(text) // 2 :][:size] for size in stop_sizes if len(text) > 1]  # in the middle of spans
    future = [*prompt, *(piece.token for piece in pieces)]
    clock = itertools.accumulate(itertools.cycle(seconds)).__next__
    drafter = Oracle(itertools.cycle(choices), future)
    assert_written_alike(model, BYTES, drafter, clock, prompt=prompt, **how, stop=stop, logprobs=logprobs)


class Letters(Tokenizer):
    """As many letters as the example models know."""

    def __init__(self) -> None:
        size = SIZES["vocabulary_size"]
        super().__init__("letters", {i: bytes([64 + i]) for i in range(1, size)}, size)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 64 for letter in text]

    def save(self, folder: object) -> None:
        """It has no file."""


@pytest.mark.skipif(not native.levels(), reason=str(native.unavailable_reason()))
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("generation", ["4", "5.2", "6", "7"])
@pytest.mark.parametrize("sampling", [Sampling(temperature=0, ban=[0]), Sampling(seed=3, ban=[0])])
def test_the_native_runtime_writes_every_bit_alike(
    generation: str, dtype: Format, sampling: Sampling
) -> None:
    model = example(generation, torch.float32)
    packed = Counted(NativeModel.pack(model, dtype, threads=2))
    how = {"prompt": [3, 1, 4, 1, 5, 3, 1, 4, 1, 5], "max_tokens": 24, "sampling": sampling}
    for drafter in (PromptLookup(), DraftModel(lambda: History(model), SIZES["vocabulary_size"])):
        speculation = assert_written_alike(packed, Letters(), drafter, packed.time, **how)
    assert 0 < speculation.accepted <= speculation.drafted  # by the draft model


@cache
def repeating() -> AnyModel:
    """A model that writes one thing again and again."""
    model = random_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.ndim >= 2
                and parameter is not model.emb.weight
                and parameter is not model.head.weight
            ):
                parameter.zero_()
    return model


def test_what_repeats_is_read_many_tokens_at_a_time() -> None:
    model = Counted(repeating())
    sampling = Sampling(temperature=0, ban=[0])
    speculation = assert_written_alike(
        model, BYTES, PromptLookup(), model.time, prompt=b"Once", max_tokens=100, sampling=sampling
    )
    assert speculation.accepted == speculation.drafted > 2 * 70
    assert max(model.sizes) == 16
    without = 2 * 100  # calls
    assert len(model.sizes) - without < 2 * 30


def test_no_more_is_read_than_may_be_written() -> None:
    for max_tokens in (1, 2, 3, 8, 13, 21, 36):
        model = Counted(repeating())
        speculation = Speculation(PromptLookup(), model.time)
        sampling = Sampling(temperature=0, ban=[0])
        list(
            go_on(
                History(model),
                BYTES,
                b"Once",
                max_tokens=max_tokens,
                sampling=sampling,
                speculation=speculation,
            )
        )
        assert sum(model.sizes) == 4 + max_tokens - 1  # the last token is not read


def test_guesses_that_are_wrong_are_not_read_for_long() -> None:
    model = Counted(random_model())
    wrong = Oracle(itertools.cycle([(0, 0, [5])]), [])
    speculation = Speculation(wrong, model.time)
    sampling = Sampling(temperature=0, ban=[0, 5])
    pieces = list(
        go_on(History(model), BYTES, b"Once", max_tokens=300, sampling=sampling, speculation=speculation)
    )
    assert len(pieces) == 300
    assert speculation.accepted == 0
    assert speculation.drafted < 15


def test_a_history_that_goes_elsewhere_meanwhile_is_read_there() -> None:
    model = Counted(repeating())
    sampling = Sampling(temperature=0, ban=[0])
    history = History(model)
    speculation = Speculation(PromptLookup(), model.time)
    pieces = go_on(history, BYTES, b"Once", max_tokens=100, sampling=sampling, speculation=speculation)
    for _ in range(50):
        next(pieces)
    history.rewind(20)
    history.extend(b"other")
    next(pieces)
    plain = History(model, tokens=history.tokens)
    assert torch.equal(history.next_logits(), plain.next_logits())


def test_a_runtime_that_rounds_otherwise_is_refused_before_the_first_piece() -> None:
    speculation = Speculation(PromptLookup())
    with pytest.raises(ConfigError, match="only the native runtime"):
        go_on(
            History(random_model()), BYTES, b"a", max_tokens=3, sampling=Sampling(), speculation=speculation
        )
