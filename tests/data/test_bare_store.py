"""Stores of other programs: told from folders, and described as what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from receptance.data import TokenStore, TokenStoreWriter, bare_store
from receptance.data.bare_store import describe, is_bare_store
from receptance.tokenizers import load_tokenizer


def test_a_prefix_or_either_file_is_a_store_and_a_folder_is_none(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "store", 256) as writer:
        writer.append([1])
    assert is_bare_store(tmp_path / "store")
    assert is_bare_store(tmp_path / "store.bin")
    assert is_bare_store(tmp_path / "store.idx")
    assert not is_bare_store(tmp_path)
    assert not is_bare_store(tmp_path / "other")


def test_the_statistics_count_the_text_of_the_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("world")
    texts = ["The Eiffel tower is in the city of", "你好，世界 😀", "x"]
    mask = [0, 1, 0]
    with TokenStoreWriter(tmp_path / "store", tokenizer.vocabulary_size) as writer:
        for text, learnt in zip(texts, mask, strict=True):
            ids = [*tokenizer.encode(text), 0]
            writer.append(ids, np.full(len(ids), learnt, np.uint8))
    store = TokenStore(tmp_path / "store")
    split = describe(tokenizer, store, None).splits["train"]
    assert split.bytes_of_text == sum(len(text.encode()) for text in texts)
    assert split.learnt_bytes == len(texts[1].encode())
    assert split.learnt_tokens == len(tokenizer.encode(texts[1])) + 1
    assert (split.documents, split.tokens) == (3, store.tokens)
    assert split.longest_document == max(len(tokenizer.encode(text)) + 1 for text in texts)


def test_the_bytes_of_a_long_store_are_those_of_an_even_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bare_store, "MOST_TOKENS_COUNTED", 1000)
    monkeypatch.setattr(bare_store, "TOKENS_AT_ONCE", 100)
    with TokenStoreWriter(tmp_path / "store", 256) as writer:
        writer.append(np.tile([65, 0], 25_000))  # half of the tokens are text
    split = describe(load_tokenizer("bytes"), TokenStore(tmp_path / "store"), None).splits["train"]
    assert split.bytes_of_text == 25_000
