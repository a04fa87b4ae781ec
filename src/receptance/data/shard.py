"""Shards: the documents of some chunks, tokenised, in one file, so that work is shared out and never lost.

Where the chunks are cut and what becomes of them depends on the sources and the options alone, so the shards,
and what is joined from them, are the same however many processes make them, and however often they were
stopped. A shard's key tells whether it is the one that would be made now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from receptance import atomic
from receptance.data.chunks import Chunk, DocumentReader, Errors
from receptance.data.description import VALIDATION
from receptance.data.document import Document
from receptance.data.indexed import LONGEST_DOCUMENT
from receptance.data.split import Split, pieces
from receptance.errors import DataError
from receptance.tokenizers import Tokenizer

FORMAT = "receptance shard 2"
DIGEST_BYTES = 16

# Texts longer than this are tokenised in pieces, and about so many characters at a time.
CHARACTERS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Tokenised documents; one that is cut for validation counts as two."""

    key: str
    tokens: NDArray[np.integer]  # of all documents, each with its end token
    mask: NDArray[np.uint8]  # 1 where a token is learnt; empty where all are
    sizes: NDArray[np.int64]  # of each document, in tokens
    chunk: NDArray[np.int64]  # of each document, the number of the chunk in which it was
    is_held_back: NDArray[np.bool_]
    digests: NDArray[np.uint8]  # [document, DIGEST_BYTES]
    bytes_of_text: NDArray[np.int64]
    learnt_bytes: NDArray[np.int64]
    left_out: NDArray[np.int64]  # documents without text, documents not UTF-8

    def save(self, path: Path) -> None:
        """Write the shard, whole or not at all."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        atomic.write_bytes(path, save(arrays, {"key": self.key}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a shard. Raises DataError where it is damaged."""
        try:
            with safe_open(path, "np") as file:
                key = (file.metadata() or {})["key"]
                return cls(key=key, **{name: file.get_tensor(name) for name in _ARRAYS})
        except (OSError, KeyError, SafetensorError) as error:
            raise DataError(
                f"{path}: this shard is damaged: {error}. Remove it and prepare again."
            ) from error


_ARRAYS = tuple(field.name for field in fields(Shard) if field.name != "key")


def load_with_key(path: Path, key: str) -> Shard | None:
    """Return the shard that lies there, if it is whole and has this key."""
    if not path.exists():
        return None
    with suppress(DataError):
        shard = Shard.load(path)
        return shard if shard.key == key else None
    return None


@dataclass(frozen=True)
class _Piece:
    """A span of a document, or a part of one too long to be tokenised at once."""

    text: str
    is_learnt: bool
    document: Document
    chunk: int
    split: str
    ends_document: bool


class ShardMaker:
    """Makes shards of chunks; can be sent to another process."""

    def __init__(self, tokenizer: Tokenizer, split: Split, text_field: str, errors: Errors) -> None:
        self._tokenizer, self._split, self._text_field, self._errors = tokenizer, split, text_field, errors

    def key(self, chunks: Sequence[Chunk], fingerprint: str) -> str:
        """Return what tells the shard of these chunks from all others; `fingerprint` is the tokenizer's."""
        options = repr((FORMAT, fingerprint, self._split, self._text_field, self._errors))
        return hashlib.blake2b(
            b"".join([options.encode(), *(chunk.identity() for chunk in chunks)]), digest_size=32
        ).hexdigest()

    def make(self, chunks: Sequence[Chunk], key: str) -> Shard:
        """Tokenise the documents of some chunks. Raises DataError for what cannot be read."""
        reader = DocumentReader(self._text_field, self._errors)
        documents = ((n, document) for n, chunk in enumerate(chunks) for document in reader.read(chunk))
        shard = _Builder(self._tokenizer)
        for batch in _batches(self._pieces(documents)):
            encoded = self._tokenizer.encode_batch([piece.text for piece in batch])
            for piece, ids in zip(batch, encoded, strict=True):
                shard.add(piece, ids)
        return shard.finish(key, reader)

    def _pieces(self, documents: Iterable[tuple[int, Document]]) -> Iterator[_Piece]:
        for chunk, document in documents:
            for split, spans in self._split.parts(document):
                parts = [
                    (piece, span.is_learnt)
                    for span in spans
                    for piece in pieces(span.text, CHARACTERS_AT_ONCE)
                ]
                for number, (text, is_learnt) in enumerate(parts, 1):
                    ends = number == len(parts)
                    yield _Piece(text, is_learnt, document, chunk, split, ends_document=ends)


class _Builder:
    """A shard that grows piece by piece."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._dtype = np.dtype("<u2" if tokenizer.vocabulary_size <= 2**16 else "<u4")
        self._end = tokenizer.end_of_text
        self._tokens: list[NDArray[np.integer]] = []
        self._masks: list[NDArray[np.uint8]] = []
        self._sizes: list[int] = []
        self._chunk: list[int] = []
        self._held_back: list[bool] = []
        self._digests: list[bytes] = []
        self._bytes: list[int] = []
        self._learnt_bytes: list[int] = []
        self._size = self._text = self._learnt = 0  # of the document that is not finished

    def add(self, piece: _Piece, ids: Sequence[int]) -> None:
        """Add the next piece, and the end token where a document ends with it."""
        # In the smallest type at once: a list of ids takes about twenty times the room.
        tokens = np.array([*ids, self._end] if piece.ends_document else ids, self._dtype)
        self._tokens.append(tokens)
        self._masks.append(np.full(tokens.size, piece.is_learnt, np.uint8))
        text = len(piece.text.encode())
        self._size += tokens.size
        self._text += text
        self._learnt += text if piece.is_learnt else 0
        if not piece.ends_document:
            return
        if self._size > LONGEST_DOCUMENT:
            raise DataError(
                f"a document that begins with {piece.document.text[:60]!r} has {self._size:,} tokens, but "
                f"the format holds at most {LONGEST_DOCUMENT:,} a document. Cut it into several."
            )
        self._sizes.append(self._size)
        self._chunk.append(piece.chunk)
        self._held_back.append(piece.split == VALIDATION)
        self._digests.append(piece.document.digest)
        self._bytes.append(self._text)
        self._learnt_bytes.append(self._learnt)
        self._size = self._text = self._learnt = 0

    def finish(self, key: str, reader: DocumentReader) -> Shard:
        """Return the shard."""
        mask = _joined(self._masks, np.dtype(np.uint8))
        return Shard(
            key=key,
            tokens=_joined(self._tokens, self._dtype),
            mask=mask if not mask.all() else mask[:0],
            sizes=np.array(self._sizes, np.int64),
            chunk=np.array(self._chunk, np.int64),
            is_held_back=np.array(self._held_back, bool),
            digests=np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES),
            bytes_of_text=np.array(self._bytes, np.int64),
            learnt_bytes=np.array(self._learnt_bytes, np.int64),
            left_out=np.array([reader.empty, reader.undecodable], np.int64),
        )


def _joined(parts: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _batches(parts: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Yield all pieces in order, about CHARACTERS_AT_ONCE in a list."""
    batch: list[_Piece] = []
    size = 0
    for piece in parts:
        batch.append(piece)
        size += len(piece.text)
        if size >= CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
