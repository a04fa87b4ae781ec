"""Texts to predict: the same out of a file and out of the folder that was prepared from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from receptance.data import prepare
from receptance.errors import ConfigError, DataError
from receptance.evaluation.documents import documents
from receptance.evaluation.encoding import Encoding
from receptance.evaluation.items import Text, Tokens
from receptance.evaluation.perplexity import Window
from receptance.tokenizers import load_tokenizer

TEXTS = ["Eins.\n", "zwei drei", "Käse"]


def test_a_prepared_folder_gives_back_its_texts(tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    prepare(source, tmp_path / "data", tokenizer="world", validation_fraction=0)
    window = Window(size=8, stride=4)
    expected = [Text.of(text, window) for text in TEXTS]
    assert documents(source, window=window).items == expected
    assert documents(tmp_path / "data", window=window).items == expected
    assert documents(source, window=window, limit=2).items == expected[:2]


def test_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty\.txt: there is no text in it"):
        documents(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="no such file or folder"):
        documents(tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["train", "train.bin", "train.idx"])
def test_a_store_gives_the_tokens_of_its_documents(tmp_path: Path, name: str) -> None:
    """To be scored as the texts are: without the token that ends a document."""
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    prepare(source, tmp_path / "data", tokenizer="world", validation_fraction=0)
    encoding = Encoding(load_tokenizer("world"))
    window = Window(size=2, stride=1)
    for each in (None, window):
        items = documents(tmp_path / "data" / name, window=each).items
        asked = [item.requests(encoding) for item in items if isinstance(item, Tokens)]
        expected = [Text.of(text, each).requests(encoding) for text in TEXTS]
        assert [[(list(r.context), list(r.continuation)) for r in item] for item in asked] == [
            [(list(r.context), list(r.continuation)) for r in item] for item in expected
        ]
    assert len(documents(tmp_path / "data" / name, limit=2).items) == 2


def test_a_store_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXTS[0])
    prepare(tmp_path / "text.txt", tmp_path / "data", tokenizer="world", validation_fraction=0)
    (item,) = documents(tmp_path / "data" / "train").items
    assert isinstance(item, Tokens)
    with pytest.raises(
        DataError, match=r"train\.bin, document 0: it holds token \d+, but the tokenizer of the"
    ):
        item.requests(Encoding(load_tokenizer("bytes")))


def test_a_text_beside_a_store_of_its_name_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a text")
    (tmp_path / "train.bin").touch()
    assert documents(tmp_path / "train").items == [Text.of("a text")]
    with pytest.raises(DataError, match=r"train\.idx: no such file, but a token store needs both"):
        documents(tmp_path / "train.bin")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_counts_documents(tmp_path: Path, limit: int) -> None:
    (tmp_path / "text.txt").write_text(TEXTS[0])
    with pytest.raises(ConfigError, match=f"limit is {limit}, but it counts documents, from 1 on"):
        documents(tmp_path / "text.txt", limit=limit)
