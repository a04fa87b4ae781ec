"""Streams show whole characters and lose none, whatever the tokenizer and whatever the ids."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receptance.errors import TokenizerError
from receptance.tokenizers import Tokenizer, load_tokenizer

TEXT = "naïve 日本語 안녕 😀👩‍👩‍👧 \r\n\t  é \x7f \ufffd fin"


@pytest.fixture(params=["world", "pile", "bytes"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "bytes":
        return load_tokenizer("bytes")
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.feed(token) for token in ids), stream.flush()]


def test_a_stream_shows_only_whole_characters_and_all_of_them(tokenizer: Tokenizer) -> None:
    pieces = streamed(tokenizer, tokenizer.encode(TEXT))
    assert "".join(pieces) == TEXT
    assert "".join(pieces).count("\ufffd") == 1  # the one that the text itself has


@pytest.mark.parametrize("name", ["world", "pile", "bytes"])
@given(data=st.data())
def test_pieces_joined_are_the_text_of_all_ids(
    request: pytest.FixtureRequest, name: str, data: st.DataObject
) -> None:
    tokenizer = load_tokenizer("bytes") if name == "bytes" else request.getfixturevalue(name)
    # Most low ids are single bytes: together they spell every kind of broken UTF-8.
    number = st.integers(0, 260) | st.integers(0, tokenizer.vocabulary_size - 1)
    ids = data.draw(st.lists(number.filter(lambda token: token < tokenizer.vocabulary_size), max_size=40))
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_text_can_be_cut_at_every_id(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for cut in range(len(ids) + 1):
        stream = tokenizer.stream()
        first = "".join(stream.feed(token) for token in ids[:cut])
        assert TEXT.startswith(first)
        rest = "".join(stream.feed(token) for token in ids[cut:])
        assert first + rest + stream.flush() == TEXT


def test_an_unfinished_character_is_held_back_until_flush() -> None:
    stream = load_tokenizer("bytes").stream()
    assert [stream.feed(value) for value in "é".encode() + b"\xf0\x9f\x98"] == ["", "é", "", "", ""]
    assert stream.flush() == "\ufffd"
    assert stream.feed(ord("a")) == "a"
    assert stream.flush() == ""


def test_a_character_that_can_no_longer_be_finished_is_shown_at_once() -> None:
    stream = load_tokenizer("bytes").stream()
    assert [stream.feed(value) for value in b"\xf0\x9fA"] == ["", "", "\ufffdA"]


def test_the_end_of_a_text_is_not_text(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("one"), tokenizer.end_of_text, *tokenizer.encode("two")]
    assert tokenizer.decode(ids) == "onetwo"
    assert tokenizer.decode_bytes([tokenizer.end_of_text]) == b""
    assert streamed(tokenizer, [tokenizer.end_of_text]) == ["", ""]


@pytest.mark.parametrize("offset", [0, 1, 1 << 40])
def test_an_id_outside_the_vocabulary_is_an_error_that_names_it(tokenizer: Tokenizer, offset: int) -> None:
    beyond = tokenizer.vocabulary_size + offset
    for token in (beyond, -1 - offset):
        with pytest.raises(TokenizerError, match=rf"id {token} .* 0 to {tokenizer.vocabulary_size - 1}\b"):
            tokenizer.decode([token])
        with pytest.raises(TokenizerError, match=f"id {token} "):
            tokenizer.stream().feed(token)


def test_a_lone_surrogate_is_an_error_that_names_its_position(tokenizer: Tokenizer) -> None:
    for text in ("ab\ud800c", "ab\udc80"):
        with pytest.raises(TokenizerError, match=r"position 2 .* U\+D[8C][08]0"):
            tokenizer.encode(text)
        with pytest.raises(TokenizerError, match="position 2 "):
            tokenizer.encode_batch(["fine", text])


def test_a_batch_is_encoded_as_its_texts_are(tokenizer: Tokenizer) -> None:
    texts = [TEXT, "", "a", TEXT * 3]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_a_tokenizer_goes_to_other_processes(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.name, copy.vocabulary_size, copy.end_of_text) == (
        tokenizer.name,
        tokenizer.vocabulary_size,
        tokenizer.end_of_text,
    )
    assert copy.encode(TEXT + "<|endoftext|>") == tokenizer.encode(TEXT + "<|endoftext|>")
