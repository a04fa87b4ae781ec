"""What is read of a source at a time, and the documents in it.

A chunk is cut off without looking into it, so that reading stays cheap; whoever has it, this process or
another one, takes it apart.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from receptance.data.document import Document
from receptance.data.rows import document_of
from receptance.data.tables import rows_of
from receptance.errors import ConfigError, DataError
from receptance.tokenizers.conversation import Span

Kind = Literal["text", "lines", "array", "table"]
Errors = Literal["strict", "replace", "skip"]
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Part of a source: its bytes, or which rows of a table."""

    path: str
    kind: Kind
    size: int  # bytes on the disk
    data: bytes = b""  # of all kinds but a table
    position: int = 0  # of the first byte in the unpacked file
    first: int = 1  # number of the first line or row
    rows: int = 0  # of a table
    version: str = ""  # of a table: changes when it does

    def identity(self) -> bytes:
        """Return bytes that another chunk has only if it holds the same."""
        head = f"{self.kind} {self.first} {self.rows} {self.version} {len(self.data)}\n"
        return hashlib.blake2b(head.encode() + self.data, digest_size=32).digest()


class DocumentReader:
    """Takes chunks apart, and counts what it leaves out: documents without text, and not UTF-8.

    `errors` says what becomes of a document that is not UTF-8: "strict" raises, "replace" puts U+FFFD in
    place of the wrong bytes, "skip" leaves it out.

    Raises DataError, naming the file and the byte, line or row, for what cannot be read; ConfigError for a
    choice of `errors` that is none.
    """

    def __init__(self, text_field: str, errors: Errors) -> None:
        if errors not in ("strict", "replace", "skip"):
            raise ConfigError(f"errors is {errors!r}, but it must be 'strict', 'replace' or 'skip'.")
        self.text_field, self.errors = text_field, errors
        self.empty = self.undecodable = 0

    def read(self, chunk: Chunk) -> Iterator[Document]:
        """Yield the documents of a chunk."""
        for document in self._documents(chunk):
            if any(span.text and not span.text.isspace() for span in document.spans):
                yield document
            else:
                self.empty += 1

    def _documents(self, chunk: Chunk) -> Iterator[Document]:
        if chunk.kind == "lines":
            yield from self._lines(chunk)
            return
        if chunk.kind == "table":
            numbered = enumerate(
                rows_of(chunk.path, chunk.first - 1, chunk.rows, self.text_field), chunk.first
            )
            rows = ((row, f"{chunk.path}: row {number}") for number, row in numbered)
        else:
            text = self._decode(chunk.data, chunk.path, chunk.position)
            if text is None:
                return
            text = text.removeprefix(BYTE_ORDER_MARK)
            if chunk.kind == "text":
                yield Document.plain(text)
                return
            items = _json(text, chunk.path, "file")
            rows = ((row, f"{chunk.path}: item {number}") for number, row in enumerate(items, 1))
        for row, origin in rows:
            yield from self._row(row, origin)

    def _lines(self, chunk: Chunk) -> Iterator[Document]:
        position = chunk.position
        for number, line in enumerate(io.BytesIO(chunk.data), chunk.first):
            origin = f"{chunk.path}:{number}"
            text = self._decode(line, origin, position)
            position += len(line)
            if text is not None and text.strip("\ufeff \t\r\n"):
                yield from self._row(_json(text.removeprefix(BYTE_ORDER_MARK), origin, "line"), origin)

    def _row(self, row: object, origin: str) -> Iterator[Document]:
        document = document_of(row, self.text_field, origin)
        try:
            document.text.encode()
        except UnicodeEncodeError as error:
            # Halves of surrogate pairs, which JSON can spell but UTF-8 cannot, are treated like wrong bytes.
            if self.errors == "strict":
                raise DataError(
                    f"{origin}: character {error.start:,} of the text is half a surrogate pair "
                    f"(\\u{ord(document.text[error.start]):04x}), which no text contains. "
                    "Correct the file, or read it with --errors replace or --errors skip."
                ) from error
            if self.errors == "skip":
                self.undecodable += 1
                return
            document = Document(tuple(map(_whole_characters, document.spans)))
        yield document

    def _decode(self, data: bytes, origin: str, position: int) -> str | None:
        """Return the text, or None where it is to be left out; data begins at this byte of the file."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if self.errors == "replace":
                return data.decode(errors="replace")
            if self.errors == "skip":
                self.undecodable += 1
                return None
            hint = " It looks like UTF-16." if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
            known = "UTF-16" if hint else "LATIN1"
            raise DataError(
                f"{origin}: byte {position + error.start:,} (0x{data[error.start]:02x}) is not UTF-8.{hint} "
                f"Convert the file (such as by iconv -f {known} -t UTF-8), or read it with --errors replace "
                "or --errors skip."
            ) from error


def _whole_characters(span: Span) -> Span:
    return replace(span, text=span.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _json(text: str, origin: str, what: str) -> Any:  # JSON is whatever it is
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = " JSON lines hold one whole object a line." if what == "line" else ""
        raise DataError(f"{origin}: this {what} is not JSON ({error}).{hint}") from error
