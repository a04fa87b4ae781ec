"""The byte tokenizer is UTF-8 itself, except that no text holds the end of a text."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from receptance.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_ids_are_the_bytes_of_the_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert bytes(ids) == text.encode()
    assert TOKENIZER.decode(ids) == text


@given(st.binary())
def test_any_bytes_but_nul_come_back(data: bytes) -> None:
    ids = TOKENIZER.encode_bytes(data)
    assert 0 not in ids
    assert TOKENIZER.decode_bytes(ids) == data.replace(b"\0", "\ufffd".encode())


def test_nul_in_a_text_does_not_end_it() -> None:
    assert TOKENIZER.encode("a\0b") == [*b"a", 0xEF, 0xBF, 0xBD, *b"b"]


def test_it_has_256_rows_and_no_file(tmp_path: Path) -> None:
    assert (TOKENIZER.name, TOKENIZER.vocabulary_size, TOKENIZER.end_of_text) == ("bytes", 256, 0)
    TOKENIZER.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
