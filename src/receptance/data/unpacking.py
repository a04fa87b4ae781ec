"""Files as streams of bytes, unpacked where they are packed, and read in pieces that memory can hold."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from receptance.data.memory import longest_document_bytes
from receptance.errors import DataError

COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
CHUNK_BYTES = 2**22  # lines that are read at a time

# A packed document may unpack to so many bytes, or to so many times the bytes of its file: natural text packs
# to a third or a tenth, a bomb to a thousandth.
UNPACKED_BYTES = 2**24
UNPACKED_RATIO = 64

ALWAYS_FITS = 2**28  # bytes of a document that every machine can hold


class Limit:
    """How many bytes a document of a file may have: as many as memory holds, and packed, as text has."""

    def __init__(self, path: str, *, size: int, is_packed: bool) -> None:
        self._path = path
        packing = max(UNPACKED_BYTES, UNPACKED_RATIO * size) if is_packed else 0
        memory = longest_document_bytes() if max(packing, size) > ALWAYS_FITS else ALWAYS_FITS
        self._is_packing = 0 < packing < memory
        self.bytes = packing if self._is_packing else memory

    def exceeded(self, number: int = 0) -> DataError:
        """Return the error for a document that is longer; in line `number`, where that is not 0."""
        place = f"{self._path}:{number}" if number else self._path
        if self._is_packing:
            return DataError(
                f"{place}: a document in it unpacks to more than {self.bytes:,} bytes, but text never packs "
                "into so few. If it is meant to, unpack the file first."
            )
        return DataError(
            f"{place}: a document in it has more than {self.bytes:,} bytes, for which the free memory of "
            "this machine does not suffice. Cut it into several, or free some memory."
        )


def whole(stream: IO[bytes], limit: Limit) -> bytes:
    """Return all that a stream holds. Raises DataError where that exceeds the limit."""
    content = bytearray()
    while piece := stream.read(CHUNK_BYTES):
        content += piece
        if len(content) > limit.bytes:
            raise limit.exceeded()
    return bytes(content)


def whole_lines(stream: IO[bytes], limit: Limit) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, lines) in chunks of about CHUNK_BYTES.

    Raises DataError for a line that exceeds the limit.
    """
    number = 1
    while chunk := stream.read(CHUNK_BYTES):
        if not chunk.endswith(b"\n"):
            begun = len(chunk) - (chunk.rfind(b"\n") + 1)
            rest = stream.readline(max(limit.bytes - begun, 0) + 1)
            if begun + len(rest) > limit.bytes:
                raise limit.exceeded(number + chunk.count(b"\n"))
            chunk += rest
        yield number, chunk
        number += chunk.count(b"\n")


def is_packed(path: str) -> bool:
    """Whether the name of a file says that it is packed."""
    return Path(path).suffix.lower() in COMPRESSED


def unpacked(path: str, packed: IO[bytes]) -> IO[bytes]:
    """Return a stream of what a file holds, which its name says how to unpack."""
    match Path(path).suffix.lower():
        case ".gz":
            return cast("IO[bytes]", gzip.open(packed))
        case ".xz":
            return lzma.open(packed, format=lzma.FORMAT_XZ)
        case ".bz2":
            return bz2.open(packed)
        case ".zst":
            return cast("IO[bytes]", _zstandard(path).open(packed, "rb"))
        case _:
            return packed


@contextmanager
def named(path: str) -> Iterator[None]:
    """Put the name of the file before whatever goes wrong while it is read."""
    try:
        yield
    except (OSError, EOFError, MemoryError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason or "the memory does not suffice"
        raise DataError(f"{path}: cannot be read: {reason}.") from error
    except Exception as error:  # ZstdError is this and nothing narrower, and its module may not be there
        if type(error).__name__ == "ZstdError":
            raise DataError(f"{path}: cannot be read: {error}.") from error
        raise


def _zstandard(path: str) -> Any:  # two modules of the same interface, neither always there
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise DataError(
        f"{path}: reading .zst needs Python 3.14 or the package backports.zstd (pip install backports.zstd). "
        "Or unpack the file first."
    )
