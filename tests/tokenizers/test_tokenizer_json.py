"""Bytes are written with the characters of the package `tokenizers`, and its failures are ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receptance.errors import TokenizerError
from receptance.tokenizers import tokenizer_json
from tokenizers import normalizers, pre_tokenizers


def test_the_alphabet_is_that_of_the_package() -> None:
    assert list(tokenizer_json.ALPHABET) == sorted(pre_tokenizers.ByteLevel.alphabet())


@given(text=st.text(min_size=1))
def test_a_text_has_the_characters_that_the_package_gives_it(text: str) -> None:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    [(expected, _)] = byte_level.pre_tokenize_str(text)
    assert tokenizer_json.as_characters(text.encode()) == expected


@given(data=st.binary())
def test_bytes_come_back_from_their_characters(data: bytes) -> None:
    assert tokenizer_json.as_bytes(tokenizer_json.as_characters(data)) == data


@pytest.mark.parametrize("character", [" ", "\n", "\x7f", "\xa0", "\xad", "\u0144", "日", "\ue000"])
def test_other_characters_stand_for_no_byte(character: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer_json.as_bytes(character)


@pytest.mark.parametrize(("content", "what"), [(b"\xff", "byte 0 is not UTF-8"), (b"{}", "is not a")])
def test_what_is_no_such_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=rf"{path}: {what}"):
        tokenizer_json.parse(tokenizer_json.read(path), path)


def test_the_state_of_a_part_is_what_the_file_says_of_it() -> None:
    assert tokenizer_json.state(None) is None
    assert tokenizer_json.state(normalizers.NFC()) == {"type": "NFC"}
