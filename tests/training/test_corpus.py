from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from receptance.data import TokenStoreWriter, prepare
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
    assert sum(batch.targets.size for batch in batches) == held - 1


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


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Path:
    """The prefix of stores as RWKV-LM has them: nothing lies beside them."""
    (tmp_path / "bare").mkdir()
    for split in ("train", "validation"):
        for suffix in (".bin", ".idx"):
            (tmp_path / "bare" / (split + suffix)).write_bytes((folder / (split + suffix)).read_bytes())
    return tmp_path / "bare" / "train"


def test_a_store_of_rwkv_lm_is_read_like_the_folder_it_came_from(folder: Path, store: Path) -> None:
    prepared = opened(folder)
    config = DataConfig(
        folder=store, context=16, tokenizer="bytes", validation=store.with_name("validation.bin")
    )
    bare = open_corpus(config, seed=0)
    assert bare.description.splits == prepared.description.splits
    assert bare.description.vocabulary_size == 256
    assert bare.validation is not None
    for index in (0, 5, 100):
        (one,), (other,) = (corpus.training[16].batch(index, 4) for corpus in (bare, prepared))
        assert (one.tokens == other.tokens).all()
    bare.check_vocabulary(256)


def test_a_store_needs_the_tokenizer_that_it_does_not_name(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"Set data\.tokenizer to its name"):
        open_corpus(DataConfig(folder=store, context=16), seed=0)


def test_a_store_of_another_tokenizer_is_refused_before_a_step(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "store", 60_000) as writer:
        writer.append([*range(50, 400), 0])
    config = DataConfig(folder=tmp_path / "store", context=16, tokenizer="bytes")
    with pytest.raises(DataError, match=r"store\.bin: token 206 is 256, .* another tokenizer"):
        open_corpus(config, seed=0).check_vocabulary(256)


def test_keys_of_a_bare_store_are_refused_beside_a_prepared_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.tokenizer is 'world', but .* brings its own"):
        open_corpus(DataConfig(folder=folder, context=16, tokenizer="world"), seed=0)


def test_a_store_of_which_nothing_is_to_be_learnt_is_refused(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "store", 256) as writer:
        writer.append(np.arange(100), np.zeros(100, np.uint8))
    config = DataConfig(folder=tmp_path / "store", context=16, tokenizer="bytes")
    with pytest.raises(DataError, match="no token is to be learnt"):
        open_corpus(config, seed=0)
