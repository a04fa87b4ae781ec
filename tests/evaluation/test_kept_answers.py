"""Kept answers outlive an interruption, a torn line too, and never stand for another model or question."""

from __future__ import annotations

from pathlib import Path

import pytest

from receptance import checkpoints, load
from receptance.errors import DataError
from receptance.evaluation.encoding import Encoding
from receptance.evaluation.items import Choice
from receptance.evaluation.kept_answers import identity, kept_in, key_of
from receptance.tokenizers import load_tokenizer
from tests.inference.models import random_model

BYTES = load_tokenizer("bytes")


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with kept_in(path) as kept:
        kept.add("a", [-1.25, True])
        kept.add("b", "text\n")
    with kept_in(path) as kept:
        assert (kept["a"], kept["b"], "c" in kept) == ([-1.25, True], "text\n", False)


@pytest.mark.parametrize("length", range(1, 25))
def test_a_line_that_was_never_finished_costs_that_answer_alone(tmp_path: Path, length: int) -> None:
    path = tmp_path / "answers.jsonl"
    with kept_in(path) as kept:
        kept.add("a", 1)
        kept.add("b", 2)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:length])
    with kept_in(path) as kept:
        assert "a" in kept
        assert ("b" in kept) == (length >= len(second) - 1)
        kept.add("c", 3)
    with kept_in(path) as kept:
        assert (kept["a"], kept["c"]) == (1, 3)


def test_another_file_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("my notes\n")
    with pytest.raises(DataError, match=r"answers\.jsonl:1: is no kept answer"), kept_in(path):
        pass
    assert path.read_text() == "my notes\n"


def test_a_key_stands_for_the_model_the_prefix_and_the_question() -> None:
    item = Choice(contexts=("a",), endings=("b", "c"), right=0)
    keys = {
        key_of("model", Encoding(BYTES), item),
        key_of("other", Encoding(BYTES), item),
        key_of("model", Encoding(BYTES, "none"), item),
        key_of("model", Encoding(load_tokenizer("world")), item),
        key_of("model", Encoding(BYTES), item.after("x")),
    }
    assert len(keys) == 5
    assert key_of("model", Encoding(BYTES), Choice(contexts=("a",), endings=("b", "c"), right=0)) in keys


def test_an_identity_is_that_of_the_weights_and_their_format(tmp_path: Path) -> None:
    for seed in (0, 1):
        checkpoints.save(random_model(seed=seed), tmp_path / f"{seed}.safetensors", tokenizer="bytes")
    checkpoints.save(random_model(), tmp_path / "copy.safetensors", tokenizer="bytes")
    one, copy, other = (identity(load(tmp_path / f"{name}.safetensors")) for name in ("0", "copy", "1"))
    assert one == copy != other
    import torch

    assert identity(load(tmp_path / "0.safetensors", dtype=torch.bfloat16)) != one
