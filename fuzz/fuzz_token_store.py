"""Stores of tokens: one byte with the size of the `.bin`, the `.bin`, and the `.idx`."""

from __future__ import annotations

from contextlib import suppress

from fuzz import files
from receptance.data import TokenStore
from receptance.errors import ReceptanceError

WORDS = (
    b"MMIDIDX\x00\x00",
    b"\x01\x00\x00\x00\x00\x00\x00\x00",
    b"\x08",
    b"\x04",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
)


def read(data: bytes) -> None:
    """Open a store and read every document."""
    size = data[0] if data else 0
    files.put("a.bin", data[1 : 1 + size])
    files.put("a.idx", data[1 + size :])
    with suppress(ReceptanceError):
        store = TokenStore(files.folder() / "a")
        assert sum(store.document(index).size for index in range(store.documents)) <= store.tokens
        store.check_vocabulary(100)
