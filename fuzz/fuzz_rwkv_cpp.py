"""Files of rwkv.cpp."""

from __future__ import annotations

from contextlib import suppress

from fuzz import files
from receptance.checkpoints import rwkv_cpp
from receptance.errors import ReceptanceError

WORDS = (
    b"fmgg",
    b"\x65\x00\x00\x00",
    b"\x64\x00\x00\x00",
    b"emb.weight",
    b"blocks.0.att.time_decay",
    b"blocks.0.ln0.weight",
    b"\x01\x00\x00\x00",
    b"\x02\x00\x00\x00",
    b"\x0c\x00\x00\x00",
    b"\xff\xff\xff\xff",
)


def read(data: bytes) -> None:
    """Read a file, and every number of it."""
    path = files.put("a.bin", data)
    with suppress(ReceptanceError):
        for weight in rwkv_cpp.read(path).weights.values():
            assert tuple(weight.read().shape) == weight.shape
