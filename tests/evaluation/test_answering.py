"""A model's answers are those to each item alone, and nothing is asked twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance import checkpoints, load
from receptance.evaluation.answering import answers
from receptance.evaluation.encoding import Encoding
from receptance.evaluation.items import Answer, Choice, Completion, Item, Text
from receptance.evaluation.kept_answers import kept_in
from receptance.evaluation.perplexity import Window
from receptance.inference import Loaded
from tests.inference.models import random_model

ITEMS: list[Item] = [
    Choice(contexts=("Question: one?",), endings=("yes", "no"), right=0),
    Answer(prompt="Once", answers=("x",), stop=("e",), max_tokens=6),
    Completion(context="Question: one or two", ending=" words"),
    Answer(prompt="Upon", answers=("x",), stop=("a", "b"), max_tokens=3),
    Text.of("Ein ganzer Text."),
    Text.of("Ein Text in Fenstern.", Window(size=7, stride=3)),
]


@pytest.fixture
def lm(tmp_path: Path) -> Loaded:
    checkpoints.save(random_model(), tmp_path / "model.safetensors", tokenizer="bytes")
    return load(tmp_path / "model.safetensors")


def log_likelihood(lm: Loaded, context: str, ending: str) -> float:
    tokens = torch.tensor([list(f"\n{context}{ending}".encode())])
    said = lm(tokens)[0][0].double().log_softmax(-1)
    begin = len(context) + 1
    return float(said[range(begin - 1, tokens.shape[1] - 1), tokens[0, begin:]].sum())


def test_answers_are_those_to_each_alone(lm: Loaded) -> None:
    choice, once, completion, upon, text, windows = answers(lm, ITEMS, Encoding(lm.tokenizer), batch_size=3)
    expected = [log_likelihood(lm, "Question: one?", ending) for ending in (" yes", " no")]
    assert choice == pytest.approx(expected, abs=1e-4)
    assert completion[0] == pytest.approx(log_likelihood(lm, "Question: one or two", " words"), abs=1e-4)
    assert once == lm.generate("\nOnce", max_tokens=6, stop="e", temperature=0)
    assert upon == lm.generate("\nUpon", max_tokens=3, stop=["a", "b"], temperature=0)
    assert text["nats"] == pytest.approx(-log_likelihood(lm, "", "Ein ganzer Text."), abs=1e-4)
    assert (text["tokens"], windows["tokens"]) == (16, 21)


def test_what_is_kept_is_not_asked_again(lm: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    encoding = Encoding(lm.tokenizer)
    told: list[tuple[int, int]] = []
    with kept_in(path) as kept:
        answers(lm, ITEMS[:3], encoding, kept=kept)
    with kept_in(path) as kept:
        found = answers(lm, ITEMS, encoding, kept=kept, report=lambda *done: told.append(done))
    assert told == [(done, 6) for done in (3, 4, 5, 6)]
    monkeypatch.setattr(lm.model, "features", None)
    with kept_in(path) as kept:
        assert answers(lm, ITEMS[::-1], encoding, kept=kept) == found[::-1]


def test_a_tuned_state_is_what_every_item_begins_from(lm: Loaded) -> None:
    encoding = Encoding(lm.tokenizer)
    plain = answers(lm, ITEMS[:1], encoding)
    lm.tuned_state = lm(torch.tensor([[1, 2, 3]]))[1]
    assert answers(lm, ITEMS[:1], encoding) != plain
