"""The vocabulary in a GGUF file is what llama.cpp's own converter writes, and is found again."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receptance.checkpoints.gguf import vocabulary
from receptance.errors import TokenizerError
from receptance.tokenizers import Tokenizer, load_tokenizer
from receptance.tokenizers.world import PUBLISHED_SHA256, WorldTokenizer

ALL_BYTES = [bytes([value]) for value in range(256)]


@pytest.fixture(scope="module")
def world() -> Tokenizer:
    try:
        return load_tokenizer("world")
    except TokenizerError as error:
        pytest.skip(str(error))


def world_vocabulary(tokens: list[bytes]) -> WorldTokenizer:
    """Return the tokenizer of these tokens, one an id from 1 on."""
    lines = [f"{number} {token!r} {len(token)}\n" for number, token in enumerate(tokens, start=1)]
    return WorldTokenizer("".join(lines).encode(), Path("own.txt"))


def test_the_rows_of_world_are_those_of_llama_cpp(world: Tokenizer, tmp_path: Path) -> None:
    file = world.save(tmp_path)
    assert file is not None
    expected = [b"<s>"]
    for line in file.read_text(encoding="utf-8").splitlines():  # as its converter reads and writes them
        literal = ast.literal_eval(line[line.index(" ") : line.rindex(" ")].strip())
        token = literal if isinstance(literal, bytes) else literal.encode()
        expected.append(repr(token)[2:-1].encode())
    expected += [f"[PAD{row}]".encode() for row in range(len(expected), 65536)]
    rows = vocabulary.rows(world, 65536)
    assert rows == expected
    assert vocabulary.tokenizer_name(rows) == "rwkv_vocab_v20230424"
    assert hashlib.sha256(vocabulary.world_file(rows)).hexdigest() == PUBLISHED_SHA256


def test_one_other_token_is_another_vocabulary(world: Tokenizer) -> None:
    rows = vocabulary.rows(world, 65536)
    rows[40_000] += b"?"
    assert vocabulary.tokenizer_name(rows) is None
    assert vocabulary.tokenizer_name(rows[:65000]) is None


def test_the_rows_of_bytes_are_found_again() -> None:
    rows = vocabulary.rows(load_tokenizer("bytes"), 256)
    assert (rows[0], rows[10], rows[39], rows[65], rows[255]) == (b"<s>", b"\\n", b"'", b"A", b"\\xff")
    assert vocabulary.tokenizer_name(rows) == "bytes"
    rows[65] = b"B"
    assert vocabulary.tokenizer_name(rows) is None


@given(st.lists(st.binary(min_size=2, max_size=9), unique=True, max_size=40), st.integers(0, 9))
def test_any_vocabulary_in_the_format_of_world_comes_back(tokens: list[bytes], extra: int) -> None:
    tokenizer = world_vocabulary([*ALL_BYTES, *tokens])
    rows = vocabulary.rows(tokenizer, tokenizer.vocabulary_size + extra)
    assert len(set(rows)) == len(rows) == tokenizer.vocabulary_size + extra
    assert [row for row in range(1, len(rows)) if vocabulary.is_unused(rows, row)] == list(
        range(tokenizer.vocabulary_size, len(rows))
    )
    back = WorldTokenizer(vocabulary.world_file(rows), Path("back.txt"))
    assert back.vocabulary_size == tokenizer.vocabulary_size
    for number, token in enumerate([*ALL_BYTES, *tokens], start=1):
        assert back.decode_bytes((number,)) == token


def test_the_row_that_ends_a_text_has_a_name_that_no_token_has() -> None:
    rows = vocabulary.rows(world_vocabulary([*ALL_BYTES, b"<s>"]), 258)
    assert (rows[0], rows[257]) == (b"<|endoftext|>", b"<s>")


def test_a_token_that_is_the_replacement_character_is_no_empty_row() -> None:
    tokenizer = world_vocabulary([*ALL_BYTES, "\ufffd".encode()])
    rows = vocabulary.rows(tokenizer, 260)
    assert rows[257:] == [b"\\xef\\xbf\\xbd", b"[PAD258]", b"[PAD259]"]


def test_without_a_tokenizer_that_llama_cpp_knows_no_row_is_a_token() -> None:
    rows = vocabulary.rows(None, 5)
    assert rows == [b"<s>", b"[PAD1]", b"[PAD2]", b"[PAD3]", b"[PAD4]"]
    assert vocabulary.world_file(rows) == b""
    assert vocabulary.tokenizer_name(rows) is None
