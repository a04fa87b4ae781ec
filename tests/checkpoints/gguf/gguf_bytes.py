"""GGUF files written by hand, in which anything may be wrong."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

Tensor = tuple[
    str | bytes, Sequence[int], int, int, bytes
]  # name, sizes (innermost first), type, place, numbers


def string(text: str | bytes) -> bytes:
    content = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(content)) + content


def value(kind: int, number: float | str | bytes) -> bytes:
    """Return a value with its type; 8 is a string."""
    return struct.pack("<I", kind) + _bare(kind, number)


def array(kind: int, items: Sequence[float | str | bytes], count: int | None = None) -> bytes:
    """Return an array with its type; it may claim another number of items."""
    head = struct.pack("<IIQ", 9, kind, len(items) if count is None else count)
    return head + b"".join(_bare(kind, item) for item in items)


def text(content: str | bytes) -> bytes:
    return value(8, content)


def number(content: int) -> bytes:
    return value(4, content)


def gguf_file(
    metadata: Mapping[str | bytes, bytes] | Sequence[tuple[str | bytes, bytes]] = (),
    tensors: Sequence[Tensor] = (),
    *,
    version: int = 3,
    num_tensors: int | None = None,
    num_keys: int | None = None,
    alignment: int = 32,
    magic: bytes = b"GGUF",
) -> bytes:
    """Return a file; the two counts may be lies."""
    pairs = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if num_tensors is None else num_tensors,
        len(pairs) if num_keys is None else num_keys,
    )
    head += b"".join(string(key) + content for key, content in pairs)
    for name, sizes, kind, place, _ in tensors:
        head += string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, place)
    head += bytes(-len(head) % alignment)
    return head + b"".join(numbers + bytes(-len(numbers) % alignment) for *_, numbers in tensors)


def _bare(kind: int, item: float | str | bytes) -> bytes:
    if isinstance(item, str | bytes):
        return string(item)
    return struct.pack("<" + _CODES[kind], item)
