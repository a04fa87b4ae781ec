"""Pickles of `.pth` files, without the archive around them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from receptance.checkpoints.pickled import torch_pickle
from receptance.errors import ReceptanceError

WORDS = (
    b"\x80\x02",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n",
    b"X\x07\x00\x00\x00storage",
    b"X\x03\x00\x00\x00cpu",
    b")R",
    b"(",
    b"t",
    b"Q",
    b"R",
    b"q\x00",
    b"h\x00",
    b"r\x00\x00\x00\x00",
    b"j\x00\x00\x00\x00",
    b"}",
    b"]",
    b"\x85",
    b"\x86",
    b"\x87",
    b"s",
    b"u",
    b"a",
    b"e",
    b"b",
    b"\x8a\x08",
    b"K\x01",
    b"M\x00\x01",
    b"J\xff\xff\xff\x7f",
    b"N",
    b"\x88",
    b"\x89",
    b"cposix\nsystem\n",
    b".",
)


def read(data: bytes) -> None:
    """Follow a pickle to its end."""
    with suppress(ReceptanceError):
        torch_pickle.read(Path("a.pth"), data)
