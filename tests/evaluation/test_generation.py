"""Greedy texts of many prompts at once are those that the plain loop writes, one by one."""

from __future__ import annotations

import pytest

from receptance.errors import ConfigError
from receptance.evaluation.generation import write_greedily
from receptance.inference import Sampling, generate
from receptance.tokenizers import load_tokenizer
from tests.inference.models import Scripted, random_model

BYTES = load_tokenizer("bytes")


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_texts_are_those_of_the_plain_loop(batch_size: int) -> None:
    model = random_model(seed=3)
    prompts = [BYTES.encode(text) for text in ("a", "Once upon", "Once upon a time", "zz", "q" * 40)]
    stop = ("\x07", "e")
    found = dict(write_greedily(model, BYTES, prompts, stop=stop, max_tokens=12, batch_size=batch_size))
    for index, prompt in enumerate(prompts):
        pieces = generate(model, BYTES, prompt, max_tokens=12, sampling=Sampling(temperature=0), stop=stop)
        assert found[index] == "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("ab\0cd", "ab"),
        ("abSTOPcd", "ab"),
        ("abcdefgh", "abcdefgh"),
        ("abcdeST", "abcdeST"),
        ("ab\xc3", "ab\ufffd"),
    ],
)
def test_a_text_ends_where_it_should(script: str, text: str) -> None:
    tokens = script.encode("latin-1")
    model = Scripted(tokens)
    ((_, written),) = write_greedily(model, BYTES, [[1]], stop=["STOP"], max_tokens=len(tokens))
    assert written == text


def test_what_would_never_end_or_begin_is_refused() -> None:
    model = random_model()
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        write_greedily(model, BYTES, [[1]], stop=[], max_tokens=0)
    with pytest.raises(ConfigError, match="A stop string is empty"):
        write_greedily(model, BYTES, [[1]], stop=[""], max_tokens=1)
