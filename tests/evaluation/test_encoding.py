"""Where a continuation begins, and what is read before it: as lm-eval has it, with a prefix before all."""

from __future__ import annotations

from pathlib import Path

import pytest

from receptance.errors import ConfigError
from receptance.evaluation.encoding import Encoding
from receptance.tokenizers import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def pile(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "data" / "tokenizers" / "20B_tokenizer.json")


def test_the_paper_s_prefix_is_the_line_break_of_the_pile_s_tokenizer(pile: Tokenizer) -> None:
    request = Encoding(pile).pair("Hello", " world")
    assert request.context == [187, *pile.encode("Hello")]
    assert request.continuation == pile.encode(" world")
    assert Encoding(pile).prompt("") == [187]


def test_each_prefix_leaves_something_to_read() -> None:
    tokenizer = load_tokenizer("bytes")
    contexts = {name: Encoding(tokenizer, name).prompt("") for name in ("newline", "end-of-text", "none")}  # type: ignore[arg-type]
    assert contexts == {"newline": [10], "end-of-text": [0], "none": [0]}
    assert Encoding(tokenizer, "none").prompt("a") == [97]


def test_blanks_that_end_a_context_belong_to_the_continuation(pile: Tokenizer) -> None:
    encoding = Encoding(pile)
    assert encoding.pair("Hello ", "world") == encoding.pair("Hello", " world")
    assert encoding.pair("Hello \n", "world").context == encoding.prompt("Hello")


def test_a_token_over_the_border_is_cut_by_count(pile: Tokenizer) -> None:
    # "un" and "believable" alone are other tokens than the whole: as many as the context has are its own.
    context, continuation = "It is un", "believable"
    whole = pile.encode(context + continuation)
    count = len(pile.encode(context))
    assert whole[:count] != pile.encode(context)
    request = Encoding(pile).pair(context, continuation)
    assert request.context == [187, *pile.encode(context)]
    assert request.continuation == (whole[count:] or pile.encode(continuation))


def test_there_is_always_something_to_score() -> None:
    world = load_tokenizer("world")
    for context, continuation in ((" ", "\n"), ("a", "b"), ("=", "="), ("\n", "\n")):
        assert Encoding(world).pair(context, continuation).continuation


def test_another_prefix_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="the prefix is 'bos', but it must be one of newline, end-of-text, none"
    ):
        Encoding(load_tokenizer("bytes"), "bos")  # type: ignore[arg-type]
