"""Rows become the questions that lm-eval 0.4.13 asks, to the letter."""

from __future__ import annotations

from typing import Any

import pytest

from receptance.evaluation.items import Answer, Choice, Completion
from receptance.evaluation.tasks import TASKS

ARC = {"question": "Why?", "choices": {"text": ["no", "so"], "label": ["A", "B"]}, "answerKey": "B"}
HELLASWAG = {
    "activity_label": "Roof removal",
    "ctx_a": "A man sits.",
    "ctx_b": "he",
    "endings": [" is [substeps] here.", "is  there. [title] Go"],
    "label": "1",
}
SCIQ = {"question": "Who?", "support": " Facts.", "correct_answer": "d"} | {
    f"distractor{number}": letter for number, letter in zip((1, 2, 3), "abc", strict=True)
}

PIQA = {"goal": "How?", "sol1": "so", "sol2": "no", "label": 1}
WINOGRANDE = {"sentence": "Ann saw Bea so _ ran.", "option1": "Ann", "option2": "Bea", "answer": "2"}
COPA = {
    "premise": "It rained. ",
    "question": "effect",
    "choice1": "We ran.",
    "choice2": "We sat.",
    "label": 0,
}
BOOLQ = {"passage": "P.", "question": "is it", "label": 1}
HEADQA = {"qtext": "Which:", "ra": 2, "answers": [{"atext": "x"}, {"atext": "y"}]}
MMLU = {"question": " Q ", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "law"}
BLIMP = {"sentence_good": "She eats.", "sentence_bad": "She eat.", "UID": "agreement"}

# The row, what comes before the choices, the choices, the right one.
ROWS: dict[str, tuple[dict[str, Any], list[str], list[str], int]] = {
    "piqa": (PIQA, ["Question: How?\nAnswer:"], ["so", "no"], 1),
    "hellaswag": (HELLASWAG, ["Roof removal: A man sits. He"], ["is here.", "is there.. Go"], 1),
    "winogrande": (WINOGRANDE, ["Ann saw Bea so Ann", "Ann saw Bea so Bea"], ["ran."], 1),
    "arc_easy": (ARC, ["Question: Why?\nAnswer:"], ["no", "so"], 1),
    "arc_challenge": (ARC, ["Question: Why?\nAnswer:"], ["no", "so"], 1),
    "openbookqa": (ARC | {"question_stem": "Ice is"}, ["Ice is"], ["no", "so"], 1),
    "sciq": (SCIQ, ["Facts.\nQuestion: Who?\nAnswer:"], ["a", "b", "c", "d"], 3),
    "copa": (COPA, ["It rained therefore"], [" we ran.", " we sat."], 0),
    "boolq": (BOOLQ, ["P.\nQuestion: is it?\nAnswer:"], ["no", "yes"], 1),
    "headqa": (HEADQA, ["Question: Which:\nAnswer:"], ["x", "y"], 1),
    "mmlu": (MMLU, ["Q\nA. a\nB. b\nC. c\nD. d\nAnswer:"], ["A", "B", "C", "D"], 2),
    "blimp": (BLIMP, [""], ["She eats.", "She eat."], 0),
}


@pytest.mark.parametrize("task", ROWS)
def test_a_row_becomes_choices(task: str) -> None:
    row, contexts, endings, right = ROWS[task]
    item = TASKS[task].question(row)
    assert isinstance(item, Choice)
    assert (list(item.contexts), list(item.endings), item.right) == (contexts, endings, right)


def test_lambada_asks_for_the_last_word() -> None:
    item = TASKS["lambada"].question({"text": "I don't care about signs"})
    assert item == Completion(context="I don't care about", ending=" signs")


def test_triviaqa_asks_for_a_line() -> None:
    item = TASKS["triviaqa"].question({"question": "Who?", "answer": {"value": "x", "aliases": ["X", "x"]}})
    assert item == Answer(prompt="Question: Who??\nAnswer:", answers=("X", "x"), stop=("\n", ".", ","))


def test_by_length_is_compared_where_lm_eval_does() -> None:
    by_length = set()
    for task, (row, *_) in ROWS.items():
        item = TASKS[task].question(row)
        assert isinstance(item, Choice)
        if item.by_length:
            by_length.add(task)
    assert by_length == {"piqa", "hellaswag", "arc_easy", "arc_challenge", "openbookqa", "sciq", "headqa"}
