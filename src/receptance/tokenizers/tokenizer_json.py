"""Hugging Face's `tokenizer.json`: reading one with the package `tokenizers`, and its alphabet of bytes.

Files are strangers': whatever the package makes of one, the outcome is a tokenizer or a TokenizerError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from receptance import whole_file
from receptance.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"

_FILE_LIMIT = 128 << 20
# An added token takes eighty times its bytes once it is read.
_LONG_ADDED_TOKEN = re.compile(r'"content"\s*:\s*"(?:[^"\\]|\\.){4096}')
# What may be done to a text before it is cut: nothing that makes it many times as long.
_NORMALIZERS = (
    "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "BertNormalizer", "ByteLevel",
)  # fmt: skip

# Byte-level tokens have a visible character for each byte: Latin-1's own where that is visible, and the
# characters from U+0100 on, in order, for the others.
_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = (value for value in range(256) if value not in _VISIBLE)
_CHARACTERS = {v: chr(v) for v in _VISIBLE} | {v: chr(0x100 + i) for i, v in enumerate(_HIDDEN)}
_NO_BYTE = 0xFFFF  # not Latin-1, so that encoding fails
_BYTES = dict.fromkeys(range(256), _NO_BYTE) | {ord(c): value for value, c in _CHARACTERS.items()}
ALPHABET = tuple(sorted(_CHARACTERS.values()))


def as_characters(data: bytes) -> str:
    """Return the characters that stand for the bytes."""
    return data.decode("latin-1").translate(_CHARACTERS)


def as_bytes(characters: str) -> bytes:
    """Return the bytes that the characters stand for; UnicodeEncodeError where one stands for none."""
    return characters.translate(_BYTES).encode("latin-1")


def read(path: Path) -> str:
    """Return the text of the file; TokenizerError where it cannot be read or is no text."""
    source = whole_file.read(path, limit=_FILE_LIMIT, needed=f"a {FILE}", error=TokenizerError)
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: byte {error.start} is not UTF-8, which a {FILE} is.") from error


def parse(source: str, file: Path) -> tokenizers.Tokenizer:
    """Return the package's tokenizer of the text of a file, which errors name.

    Raises TokenizerError where the text is damaged, or would make the texts to encode many times as long.
    """
    from tokenizers import Tokenizer

    if _LONG_ADDED_TOKEN.search(source):
        raise TokenizerError(f"{file}: an added token has more than 4,096 characters. Leave it out.")
    try:
        with panic_is_an_error(file):
            engine = Tokenizer.from_str(source)
            normalizer = state(engine.normalizer)
    except Exception as error:  # the package raises nothing narrower
        raise TokenizerError(f"{file}: is not a {FILE} ({error}).") from error
    _check_normalizer(normalizer, file)
    return engine


def state(part: Any) -> dict[str, Any] | None:  # Any: the package has no types
    """Return what the file says of a part, such as the normalizer; None where there is no such part."""
    found: dict[str, Any] | None = None if part is None else json.loads(part.__getstate__())
    return found


@contextmanager
def panic_is_an_error(file: Path) -> Iterator[None]:
    """Raise TokenizerError where the package gives up."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the package's compiled code; it is no Exception
            raise
        raise TokenizerError(f"{file}: the package tokenizers gives up on it: {error}.") from error


def _check_normalizer(normalizer: dict[str, Any] | None, file: Path) -> None:
    """Raise TokenizerError where a text could become many times as long before it is cut into tokens."""
    if normalizer is None:
        return
    if normalizer["type"] == "Sequence":
        for part in normalizer["normalizers"]:
            _check_normalizer(part, file)
    elif normalizer["type"] not in _NORMALIZERS:
        raise TokenizerError(
            f"{file}: has a normalizer {normalizer['type']!r}, which may turn a text into another; known are "
            f"{', '.join(_NORMALIZERS)}."
        )
