"""Masks: written where a document has one, for every token, and never left beside another store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from receptance.data import TokenStore, TokenStoreWriter
from receptance.errors import DataError


def test_a_mask_covers_the_documents_before_and_after_the_first_that_has_one(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "store", 256) as writer:
        writer.append([1, 2, 3])
        writer.append([4, 5], np.array([0, 1], np.uint8))
        writer.append([6])
    mask = TokenStore(tmp_path / "store").mask
    assert mask is not None
    assert mask.tolist() == [1, 1, 1, 0, 1, 1]


def test_a_store_that_is_learnt_whole_has_no_mask_not_even_of_one_before(tmp_path: Path) -> None:
    for mask in (np.array([0, 1], np.uint8), np.array([1, 1], np.uint8)):
        with TokenStoreWriter(tmp_path / "store", 256) as writer:
            writer.append([4, 5], mask)
    assert TokenStore(tmp_path / "store").mask is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.bin", "store.idx"]


def test_a_failure_leaves_the_store_and_the_mask_of_before(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "store", 256) as writer:
        writer.append([4, 5], np.array([0, 1], np.uint8))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail() -> None:
        with TokenStoreWriter(tmp_path / "store", 256) as writer:
            writer.append([6, 7], np.array([1, 0], np.uint8))
            writer.append([6, 7], np.array([1], np.uint8))

    with pytest.raises(DataError, match="its mask"):
        fail()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_mask_of_another_store_is_refused(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "store", 256) as writer:
        writer.append([4, 5])
    (tmp_path / "store.mask").write_bytes(b"\1")
    with pytest.raises(DataError, match=r"store\.mask holds 1 bytes, but store\.bin 2 tokens"):
        TokenStore(tmp_path / "store")


@pytest.mark.parametrize("sizes", [[3, 0, 2], [0, 0, 5], [4, 0, 0], [1, 1, 1]])
def test_borders_are_where_documents_with_text_begin(tmp_path: Path, sizes: list[int]) -> None:
    with TokenStoreWriter(tmp_path / "store", 256) as writer:
        for size in sizes:
            writer.append([1] * size)
    store = TokenStore(tmp_path / "store")
    begins = {sum(sizes[:i]) for i, size in enumerate(sizes) if size}
    for begin in range(store.tokens + 1):
        for end in range(begin, store.tokens + 1):
            assert store.borders(begin, end).tolist() == sorted(b for b in begins if begin <= b < end)
    assert store.longest_document() == max(sizes)
