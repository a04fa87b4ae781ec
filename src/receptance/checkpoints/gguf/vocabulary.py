"""Vocabularies as llama.cpp keeps them in the GGUF files of RWKV: a string for each row of the model.

A token's bytes are written as Python writes them inside `b'...'`. Row 0 ends a document, and rows that no
token has are called `[PAD...]`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from receptance.tokenizers import Tokenizer, byte, world

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_NUM_BYTES = 256
_WORLD_ROWS = slice(1, 65530)
_WORLD_SHA256 = (
    "0570c9e668d2720291c70ffa72858f71fb018bd915fa1439bb7aa6d8166c644a"  # of those, joined by b"\n"
)
_CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_ENDS_OF_TEXT = (b"<s>", b"<|endoftext|>")  # llama.cpp's, and one for vocabularies that have such a token


def rows(tokenizer: Tokenizer | None, count: int) -> list[bytes]:
    """Return the strings of a model's rows; without a tokenizer that llama.cpp knows none is a token."""
    tokens = [_unused(row) for row in range(count)]
    if isinstance(tokenizer, world.WorldTokenizer | byte.ByteTokenizer):
        for row in range(1, min(count, tokenizer.vocabulary_size)):
            token = tokenizer.decode_bytes((row,))
            if tokenizer.encode_bytes(token) == [row]:  # else the row has no token, and decodes to U+FFFD
                tokens[row] = repr(token)[2:-1].encode()
    tokens[0] = next(name for name in _ENDS_OF_TEXT if name not in tokens)
    return tokens


def is_unused(strings: Sequence[bytes], row: int) -> bool:
    """Say whether no token has this row."""
    return strings[row] == _unused(row)


def world_file(strings: Sequence[bytes]) -> bytes:
    """Return the vocabulary as a file in World's format; of World's own rows it is the published file."""
    return world.source_of(
        {row: _unescaped(strings[row]) for row in range(1, len(strings)) if not is_unused(strings, row)}
    )


def tokenizer_name(strings: Sequence[bytes]) -> str | None:
    """Return the name of the tokenizer that has these rows, if it is one that receptance knows."""
    if len(strings) == _NUM_BYTES:
        is_bytes = all(_unescaped(strings[value]) == bytes([value]) for value in range(1, _NUM_BYTES))
        return byte.NAME if is_bytes else None
    found = hashlib.sha256(b"\n".join(strings[_WORLD_ROWS])).hexdigest()
    return world.NAME if found == _WORLD_SHA256 else None


def _unused(row: int) -> bytes:
    return b"[PAD%d]" % row


def _unescaped(text: bytes) -> bytes:
    return _ESCAPE.sub(_meaning, text) if b"\\" in text else text


def _meaning(escape: re.Match[bytes]) -> bytes:
    kind = escape.group(1)
    return bytes.fromhex(kind[1:].decode()) if len(kind) == 3 else _CONTROLS.get(kind, kind)
