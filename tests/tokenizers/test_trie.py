"""Both tries cut a text into the longest tokens, and into the same."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance import native
from receptance.tokenizers import trie
from receptance.tokenizers.trie import NativeTrie, ReferenceTrie, Trie

Tokens = dict[bytes, int]
SINGLE = {bytes([value]): value + 1 for value in range(256)}


def native_trie(tokens: Tokens) -> Trie:
    library = native.library()
    if library is None:
        pytest.skip(str(native.unavailable_reason()))
    return NativeTrie(library, tokens)


IMPLEMENTATIONS = pytest.mark.parametrize("make", [ReferenceTrie, native_trie])
# Few letters, so that tokens share beginnings and texts go deep before they fail.
short_texts = st.lists(st.sampled_from(b"ab\x00\xff"), max_size=60).map(bytes)
vocabularies = st.sets(short_texts.filter(lambda token: len(token) > 1), max_size=40).map(
    lambda more: SINGLE | {token: number for number, token in enumerate(sorted(more), start=1000)}
)


def longest_tokens(tokens: Tokens, data: bytes) -> list[int]:
    """Greedy longest match by its definition: of all tokens that the rest begins with, the longest."""
    ids = []
    while data:
        token = max((token for token in tokens if data.startswith(token)), key=len)
        ids.append(tokens[token])
        data = data[len(token) :]
    return ids


@IMPLEMENTATIONS
@given(tokens=vocabularies, data=short_texts)
def test_each_place_gives_the_longest_token(
    make: Callable[[Tokens], Trie], tokens: Tokens, data: bytes
) -> None:
    assert make(tokens).encode(data) == longest_tokens(tokens, data)


@settings(max_examples=20)
@given(
    more=st.sets(st.binary(min_size=2, max_size=6), max_size=2000),
    data=st.binary(max_size=300),
)
def test_the_tries_agree_on_any_bytes(more: set[bytes], data: bytes) -> None:
    tokens = SINGLE | {token: number for number, token in enumerate(more, start=300)}
    data += b"".join(list(more)[:20])
    assert native_trie(tokens).encode(data) == ReferenceTrie(tokens).encode(data)


@IMPLEMENTATIONS
def test_no_bytes_give_no_ids(make: Callable[[Tokens], Trie]) -> None:
    assert make(SINGLE).encode(b"") == []


def test_a_text_longer_than_one_native_call_is_cut_without_a_seam() -> None:
    tokens = SINGLE | {b"abc": 300}
    data = b"abcab" * NativeTrie.IDS_PER_CALL
    assert native_trie(tokens).encode(data) == [300, 98, 99] * NativeTrie.IDS_PER_CALL


def test_threads_share_a_trie() -> None:
    shared = native_trie(SINGLE | {b"ab" * length: 300 + length for length in range(1, 40)})
    data = b"ab" * 30_000 + b"c"
    expected = shared.encode(data)
    results: list[list[int]] = []
    threads = [threading.Thread(target=lambda: results.append(shared.encode(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


def test_memory_is_given_back_with_the_trie() -> None:
    library = native.library()
    if library is None:
        pytest.skip(str(native.unavailable_reason()))
    library.receptance_trie_free.argtypes = [ctypes.c_void_p]
    freed: list[int] = []

    def free(handle: int) -> None:
        freed.append(handle)
        library.receptance_trie_free(handle)

    counting = SimpleNamespace(
        receptance_trie_build=library.receptance_trie_build,
        receptance_trie_encode=library.receptance_trie_encode,
        receptance_trie_free=free,
    )
    made = NativeTrie(counting, SINGLE)  # type: ignore[arg-type]  # stands in for the library
    handle = made._handle
    del made
    gc.collect()
    assert freed == [handle]


def test_without_the_native_library_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    assert isinstance(trie.build(SINGLE), ReferenceTrie)


def test_with_the_native_library_it_serves() -> None:
    if native.library() is None:
        pytest.skip(str(native.unavailable_reason()))
    assert isinstance(trie.build(SINGLE), NativeTrie)
