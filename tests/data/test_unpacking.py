"""Lines come whole and in order, however they are read; a line that is too long is named."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receptance.data import unpacking
from receptance.data.unpacking import Limit, whole, whole_lines
from receptance.errors import DataError


@given(content=st.binary(max_size=200).map(lambda b: b.replace(b"\0", b"\n")), size=st.integers(1, 50))
def test_chunks_end_with_lines_and_are_the_whole(content: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpacking, "CHUNK_BYTES", size)
        chunks = list(whole_lines(io.BytesIO(content), Limit("a", size=0, is_packed=False)))
    assert b"".join(data for _, data in chunks) == content
    seen = 0
    for number, data in chunks:
        assert number == seen + 1
        seen += data.count(b"\n")
    assert all(data.endswith(b"\n") for _, data in chunks[:-1])


@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_line_beyond_the_limit_is_named_with_its_number(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr(unpacking, "CHUNK_BYTES", 16)
    monkeypatch.setattr(unpacking, "ALWAYS_FITS", 50)
    monkeypatch.setattr(unpacking, "longest_document_bytes", lambda: 100)
    limit = Limit("a.jsonl", size=200, is_packed=False)
    list(whole_lines(io.BytesIO(b"x\n" * before + b"y" * 99 + b"\n"), limit))
    with pytest.raises(DataError, match=rf"a\.jsonl:{before + 1}: .* more than 100 bytes"):
        list(whole_lines(io.BytesIO(b"x\n" * before + b"y" * 101 + b"\nz"), limit))


def test_a_whole_file_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "ALWAYS_FITS", 50)
    monkeypatch.setattr(unpacking, "longest_document_bytes", lambda: 100)
    limit = Limit("a.txt", size=200, is_packed=False)
    assert whole(io.BytesIO(b"y" * 100), limit) == b"y" * 100
    with pytest.raises(DataError, match=r"a\.txt: .* Cut it into several, or free some memory"):
        whole(io.BytesIO(b"y" * 101), limit)
