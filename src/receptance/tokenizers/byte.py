"""Bytes as tokens: each byte of the text's UTF-8 is one id, its value. There is no vocabulary file."""

from __future__ import annotations

from pathlib import Path

from receptance.tokenizers.interface import REPLACEMENT, Tokenizer, utf8

NAME = "bytes"


class ByteTokenizer(Tokenizer):
    """The 256 byte values as ids.

    Id 0 ends a document, so the NUL character, which would have it, is encoded as U+FFFD instead (the bytes
    EF BF BD); every other text comes back as it was.
    """

    def __init__(self) -> None:
        token_bytes = {value: bytes([value]) for value in range(1, 256)}
        super().__init__(NAME, {0: b"", **token_bytes}, vocabulary_size=256)

    def encode(self, text: str) -> list[int]:
        """Return the bytes of the text, NUL replaced by U+FFFD; TokenizerError for a lone surrogate."""
        return self.encode_bytes(utf8(text))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the values of the bytes, NUL replaced by the three bytes of U+FFFD."""
        return list(data.replace(b"\0", REPLACEMENT))

    def save(self, folder: Path) -> None:
        """Write nothing: there is no vocabulary."""
