"""Vocabularies in World's format; lines that are sound get those of the single bytes before them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from receptance.errors import ReceptanceError
from receptance.tokenizers.world import WorldTokenizer

WORDS = (
    b"300 ",
    b"'a'",
    b"b'a'",
    b" 1\n",
    b"\\x",
    b"\\u",
    b"\\U0001f600",
    b"\\ud800",
    b'"',
    b"'",
    b"\r\n",
    b"65535 ",
    b"\xc3\xa9",
)
SINGLE = b"".join(f"{value + 1} {bytes([value])!r} 1\n".encode() for value in range(256))


def read(data: bytes) -> None:
    """Read a vocabulary, and take its own text there and back."""
    try:
        WorldTokenizer(data, Path("a.txt"))
    except ReceptanceError as error:
        if "single bytes" not in str(error):
            return
    with suppress(ReceptanceError):
        tokenizer = WorldTokenizer(SINGLE + data, Path("a.txt"))
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data
