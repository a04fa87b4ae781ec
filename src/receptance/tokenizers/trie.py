"""Greedy longest match: from its start, a text is cut into the longest token that each place begins with.

The native trie (`native/trie.cpp`) takes time linear in the text. Where the library is missing, the reference
serves. Both need every single byte to be a token, so that no text gets stuck.
"""

from __future__ import annotations

import ctypes
import weakref
from array import array
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Protocol

from receptance import native


class Trie(Protocol):
    """Cuts bytes into tokens."""

    def encode(self, data: bytes) -> list[int]:
        """Return the ids of the longest tokens, one after the other."""


def build(tokens: Mapping[bytes, int]) -> Trie:
    """Return the fastest trie that works here.

    `tokens` gives the id of each token; none is empty, and every single byte is among them.
    """
    library = native.library()
    return ReferenceTrie(tokens) if library is None else NativeTrie(library, tokens)


class ReferenceTrie:
    """The definition in Python: try the lengths that tokens with the next two bytes have, longest first."""

    def __init__(self, tokens: Mapping[bytes, int]) -> None:
        self._ids = dict(tokens)
        lengths: defaultdict[bytes, set[int]] = defaultdict(lambda: {1})
        for token in tokens:
            lengths[token[:2]].add(len(token))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}

    def encode(self, data: bytes) -> list[int]:
        """Return the ids of the longest tokens, one after the other."""
        found: list[int] = []
        position = 0
        while position < len(data):
            for length in self._lengths.get(data[position : position + 2], (1,)):
                token = data[position : position + length]
                if token in self._ids:
                    break
            found.append(self._ids[token])
            position += len(token)
        return found


class NativeTrie:
    """The double-array trie in C++. The global interpreter lock is free while it works."""

    IDS_PER_CALL = 1 << 16  # bounds the memory beside the result

    def __init__(self, library: ctypes.CDLL, tokens: Mapping[bytes, int]) -> None:
        pointer, size = ctypes.c_void_p, ctypes.c_uint64
        build, free = library.receptance_trie_build, library.receptance_trie_free
        build.argtypes, build.restype = [ctypes.c_char_p, pointer, pointer, size], pointer
        free.argtypes, free.restype = [pointer], None
        self._encode = library.receptance_trie_encode
        self._encode.argtypes = [pointer, ctypes.c_char_p, size, ctypes.POINTER(size), pointer, size]
        self._encode.restype = size

        offsets = array("Q", accumulate(map(len, tokens), initial=0))
        ids = array("I", tokens.values())
        self._handle = build(b"".join(tokens), offsets.buffer_info()[0], ids.buffer_info()[0], len(ids))
        if self._handle is None:
            raise MemoryError(f"no memory for a trie of {len(ids)} tokens")
        weakref.finalize(self, free, self._handle).atexit = False  # other threads may still encode at exit

    def encode(self, data: bytes) -> list[int]:
        """Return the ids of the longest tokens, one after the other."""
        capacity = min(len(data), self.IDS_PER_CALL)
        buffer = array("I", bytes(4 * capacity))
        address, _ = buffer.buffer_info()
        position = ctypes.c_uint64(0)
        found: list[int] = []
        while position.value < len(data):
            count = self._encode(self._handle, data, len(data), ctypes.byref(position), address, capacity)
            found += buffer[:count].tolist()
        return found
