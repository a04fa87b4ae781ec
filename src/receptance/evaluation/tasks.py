"""The tasks: for each its file, and how a row of it becomes a question.

The files are JSON lines with the fields of the data sets on the Hugging Face hub, or for WikiText the plain
text of all pages. Prompts, choices and
metrics are those of the tasks of the same names in lm-evaluation-harness 0.4.13, to the letter, blanks too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from receptance.evaluation import wikitext
from receptance.evaluation.items import Answer, Choice, Completion, Text

Row = Mapping[str, Any]
Question = Choice | Completion | Answer


@dataclass(frozen=True, kw_only=True)
class Task:
    """A table of questions, or of texts to predict.

    files           names that the file may have, of which the first that is there counts
    origin          where the file may be had: a data set and its split
    question        what makes a question of a row, or a text
    rows            what makes rows of the lines of a file that holds no JSON
    examples        names of a file whose first rows are the examples; where none is given, they are of the
                    file itself
    takes_examples  whether there can be examples before a question
    introduction    what comes before the examples of a group
    """

    files: tuple[str, ...]
    origin: str
    question: Callable[[Row], Question | Text]
    rows: Callable[[Iterable[str]], Iterator[Row]] | None = None
    examples: tuple[str, ...] = ()
    takes_examples: bool = True
    introduction: Callable[[str], str] = lambda group: ""


def _lambada(row: Row) -> Completion:
    context, _, word = row["text"].rpartition(" ")
    return Completion(context=context, ending=f" {word}")


def _piqa(row: Row) -> Choice:
    return _asked(row["goal"], [row["sol1"], row["sol2"]], int(row["label"]))


def _hellaswag(row: Row) -> Choice:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return Choice(
        contexts=(_without_brackets(context),),
        endings=tuple(map(_without_brackets, row["endings"])),
        right=int(row["label"]),
        by_length=True,
    )


def _winogrande(row: Row) -> Choice:
    before, _, after = row["sentence"].partition("_")
    return Choice(
        contexts=(before + row["option1"], before + row["option2"]),
        endings=(after.strip(),),
        right=int(row["answer"]) - 1,
    )


def _arc(row: Row) -> Choice:
    choices = row["choices"]
    return _asked(row["question"], choices["text"], choices["label"].index(row["answerKey"]))


def _openbookqa(row: Row) -> Choice:
    choices = row["choices"]
    return Choice(
        contexts=(row["question_stem"],),
        endings=tuple(choices["text"]),
        right=choices["label"].index(row["answerKey"].lstrip()),
        by_length=True,
    )


def _sciq(row: Row) -> Choice:
    wrong = [row[f"distractor{number}"] for number in (1, 2, 3)]
    question = _asked(row["question"], [*wrong, row["correct_answer"]], 3)
    return question.after(row["support"].lstrip() + "\n")


def _copa(row: Row) -> Choice:
    connector = {"cause": "because", "effect": "therefore"}[row["question"]]
    choices = (row["choice1"], row["choice2"])
    return Choice(
        contexts=(f"{row['premise'].strip()[:-1]} {connector}",),
        endings=tuple(f" {choice[0].lower()}{choice[1:]}" for choice in choices),
        right=int(row["label"]),
    )


def _boolq(row: Row) -> Choice:
    return Choice(
        contexts=(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:",),
        endings=("no", "yes"),
        right=int(row["label"]),
    )


def _headqa(row: Row) -> Choice:
    return _asked(row["qtext"], [answer["atext"] for answer in row["answers"]], int(row["ra"]) - 1)


def _triviaqa(row: Row) -> Answer:
    return Answer(
        prompt=f"Question: {row['question']}?\nAnswer:",
        answers=tuple(row["answer"]["aliases"]),
        stop=("\n", ".", ","),
    )


def _mmlu(row: Row) -> Choice:
    letters = ("A", "B", "C", "D")
    choices = "".join(f"\n{letter}. {text}" for letter, text in zip(letters, row["choices"], strict=True))
    return Choice(
        contexts=(f"{row['question'].strip()}{choices}\nAnswer:",),
        endings=letters,
        right=int(row["answer"]),
        group=row["subject"],
    )


def _mmlu_introduction(subject: str) -> str:
    name = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {name}.\n\n"


def _blimp(row: Row) -> Choice:
    return Choice(
        contexts=("",), endings=(row["sentence_good"], row["sentence_bad"]), right=0, group=row["UID"]
    )


def _wikitext(row: Row) -> Text:
    return Text.of(wikitext.joined(row["page"]), counted=row["page"])


def _wikitext_rows(lines: Iterable[str]) -> Iterator[Row]:
    return ({"page": page} for page in wikitext.pages(lines))


def _asked(question: str, choices: list[str], right: int) -> Choice:
    return Choice(
        contexts=(f"Question: {question}\nAnswer:",), endings=tuple(choices), right=right, by_length=True
    )


def _without_brackets(text: str) -> str:
    """Return a text of HellaSwag without what WikiHow's pages left in it."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


TASKS: dict[str, Task] = {
    "lambada": Task(
        files=("lambada_openai.test.jsonl",), origin="EleutherAI/lambada_openai, test", question=_lambada
    ),
    "piqa": Task(files=("piqa.validation.jsonl",), origin="baber/piqa, validation", question=_piqa),
    "hellaswag": Task(
        files=("hellaswag.validation.jsonl",), origin="Rowan/hellaswag, validation", question=_hellaswag
    ),
    "winogrande": Task(
        files=("winogrande_xl.validation.jsonl",),
        origin="allenai/winogrande, winogrande_xl, validation",
        question=_winogrande,
    ),
    "arc_easy": Task(files=("arc_easy.test.jsonl",), origin="allenai/ai2_arc, ARC-Easy, test", question=_arc),
    "arc_challenge": Task(
        files=("arc_challenge.test.jsonl",), origin="allenai/ai2_arc, ARC-Challenge, test", question=_arc
    ),
    "openbookqa": Task(
        files=("openbookqa.test.jsonl",), origin="allenai/openbookqa, main, test", question=_openbookqa
    ),
    "sciq": Task(
        files=("sciq.test.jsonl", "sciq.validation.jsonl"), origin="allenai/sciq, test", question=_sciq
    ),
    "copa": Task(files=("copa.validation.jsonl",), origin="aps/super_glue, copa, validation", question=_copa),
    "boolq": Task(
        files=("boolq.validation.jsonl",), origin="aps/super_glue, boolq, validation", question=_boolq
    ),
    "headqa": Task(files=("headqa_en.test.jsonl",), origin="EleutherAI/headqa, en, test", question=_headqa),
    "triviaqa": Task(
        files=("triviaqa.validation.jsonl", "triviaqa_3000.validation.jsonl"),
        origin="mandarjoshi/trivia_qa, rc.nocontext, validation",
        question=_triviaqa,
    ),
    "mmlu": Task(
        files=("mmlu.test.jsonl",),
        examples=("mmlu.dev.jsonl",),
        origin="cais/mmlu, all, test (and dev, for the examples)",
        question=_mmlu,
        introduction=_mmlu_introduction,
    ),
    "blimp": Task(
        files=("blimp.jsonl", "blimp-34.jsonl"),
        origin="nyu-mll/blimp, train, all paradigms in one file",
        question=_blimp,
        takes_examples=False,
    ),
    "wikitext": Task(
        files=("wikitext.test.jsonl", "wiki.test.raw", "wikitext-2.test.txt"),
        origin="EleutherAI/wikitext_document_level, wikitext-2-raw-v1, test",
        question=_wikitext,
        rows=_wikitext_rows,
        takes_examples=False,
    ),
}
