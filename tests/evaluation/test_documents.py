"""Texts to predict: the same out of a file and out of the folder that was prepared from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from receptance.data import prepare
from receptance.errors import DataError
from receptance.evaluation.documents import documents
from receptance.evaluation.items import Text
from receptance.evaluation.perplexity import Window

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
