from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from receptance.data import prepare
from receptance.errors import ConfigError, DataError
from receptance.training import DataConfig
from receptance.training.corpus import Corpus, open_corpus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "text"
    source.mkdir()
    for number in range(10, 34):  # enough for whole documents to be held back
        (source / f"{number}.txt").write_text(f"{number} naïve cafés\n" * 5, encoding="utf-8")
    prepare(source, tmp_path / "data", tokenizer="bytes", validation_fraction=0.1)
    return tmp_path / "data"


def opened(folder: Path, context: int = 16) -> Corpus:
    return open_corpus(DataConfig(folder=folder, context=context), seed=0)


def test_a_loss_in_bits_per_byte_counts_the_bytes_of_the_split(folder: Path) -> None:
    corpus = opened(folder)
    for split in ("train", "validation"):
        statistics = corpus.description.splits[split]
        documents = statistics.documents
        text_bytes = len("10 naïve cafés\n".encode()) * 5 * documents
        # Every byte is a token, and every document ends with one more.
        assert corpus.bits_per_byte(math.log(2), split) == pytest.approx(
            (text_bytes + documents) / text_bytes
        )


def test_a_validation_split_shorter_than_the_context_still_counts(folder: Path) -> None:
    corpus = opened(folder, context=300)
    assert corpus.validation is not None
    held = corpus.description.splits["validation"].tokens
    assert held < 300
    batches = list(corpus.validation.sequential(4))
    assert sum(targets.size for _, targets in batches) == held - 1


def test_a_split_that_does_not_exist_is_no_validation(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one text\n" * 20, encoding="utf-8")
    prepare(tmp_path / "text.txt", tmp_path / "data", tokenizer="bytes", validation_fraction=0.0)
    assert opened(tmp_path / "data").validation is None


def test_a_vocabulary_must_hold_the_tokenizers(folder: Path) -> None:
    opened(folder).check_vocabulary(256)
    opened(folder).check_vocabulary(300)
    with pytest.raises(ConfigError, match=r"vocabulary of 255, .* which has 256"):
        opened(folder).check_vocabulary(255)


def test_a_store_with_ids_beyond_the_tokenizers_is_refused(folder: Path) -> None:
    description = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    description["vocabulary_size"] = 100  # and "n" is byte 110
    (folder / "data.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.bin: token 3 is 110, but a vocabulary of 100"):
        opened(folder).check_vocabulary(256)


def test_the_identity_tells_one_text_from_another(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other text\n" * 20, encoding="utf-8")
    prepare(tmp_path / "other.txt", tmp_path / "other", tokenizer="bytes", validation_fraction=0.0)
    assert opened(folder).identity() == opened(folder).identity()
    assert opened(folder).identity() != opened(tmp_path / "other").identity()
