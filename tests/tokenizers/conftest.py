"""The published tokenizers, and the ids that the official implementations give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rwkv import rwkv_tokenizer  # type: ignore[import-untyped]  # a package without types

from receptance.tokenizers import Tokenizer, load_tokenizer
from receptance.tokenizers.world import WorldTokenizer

PACKAGE_VOCABULARY = Path(rwkv_tokenizer.__file__).with_name("rwkv_vocab_v20230424.txt")


@pytest.fixture(scope="session")
def vectors(shared: Path) -> dict[str, Any]:
    """Texts, ids and bytes, as the official implementations turn them into each other."""
    contents: dict[str, Any] = json.loads((shared / "data/tokenizer-vectors.json").read_text("utf-8"))
    return contents


@pytest.fixture(scope="session")
def pile_file(shared: Path) -> Path:
    return shared / "data/tokenizers/20B_tokenizer.json"


@pytest.fixture(scope="session")
def pile(pile_file: Path) -> Tokenizer:
    return load_tokenizer(pile_file)


@pytest.fixture(scope="session")
def world() -> WorldTokenizer:
    tokenizer = load_tokenizer("world")
    assert isinstance(tokenizer, WorldTokenizer)
    return tokenizer


@pytest.fixture(scope="session")
def official_world() -> rwkv_tokenizer.TRIE_TOKENIZER:
    """What the authors of the models use."""
    return rwkv_tokenizer.TRIE_TOKENIZER(str(PACKAGE_VOCABULARY))
