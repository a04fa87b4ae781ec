"""Whole `.pth` files: the zip archive, its records, and the pickle in it."""

from __future__ import annotations

from contextlib import suppress

from fuzz import files
from receptance.checkpoints import pickled
from receptance.errors import ReceptanceError

WORDS = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"PK\x07\x08",
    b"a/data.pkl",
    b"a/data/0",
    b"a/byteorder",
    b"little",
    b"big",
    b"a/version",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
)


def read(data: bytes) -> None:
    """Read a file, and every number of it."""
    path = files.put("a.pth", data)
    with suppress(ReceptanceError):
        tensors = pickled.read_tensors(path)
        assert all(tensor.sum() is not None for tensor in tensors.values())
