"""GGUF files: the container, and what it says of a model."""

from __future__ import annotations

from contextlib import suppress

from fuzz import files
from receptance.checkpoints import gguf
from receptance.checkpoints.gguf import container
from receptance.errors import ReceptanceError

WORDS = (
    b"GGUF\x03\x00\x00\x00",
    b"general.architecture",
    b"rwkv6",
    b"rwkv7",
    b"general.alignment",
    b"token_embd.weight",
    b"tokenizer.ggml.tokens",
    b"blk.0.attn_norm.weight",
    b"\x08\x00\x00\x00",
    b"\x09\x00\x00\x00",
    b"\x04\x00\x00\x00",
    b"\x01\x00\x00\x00\x00\x00\x00\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
)


def read(data: bytes) -> None:
    """Read a file as a container, with every number of it, and as a model."""
    path = files.put("a.gguf", data)
    with suppress(ReceptanceError):
        for weight in container.read(path).weights.values():
            assert tuple(weight.read().shape) == weight.shape
    with suppress(ReceptanceError):
        gguf.read(path)
