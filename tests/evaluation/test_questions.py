"""Questions out of files: found by name, packed or not, with examples before them, or refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from receptance.errors import ConfigError, DataError
from receptance.evaluation.items import Choice, Text
from receptance.evaluation.questions import questions
from receptance.evaluation.tasks import TASKS

ROWS = [{"goal": f"q{number}", "sol1": "a", "sol2": "b", "label": number % 2} for number in range(4)]
MMLU = [
    {"question": f"{subject} {number}", "choices": list("wxyz"), "answer": 1, "subject": subject}
    for number in range(3)
    for subject in ("law", "high_art")
]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def contexts(folder: Path, task: str, shots: int = 0, limit: int | None = None) -> list[str]:
    items = questions(task, folder, shots=shots, limit=limit).items
    return [item.contexts[0] for item in items if isinstance(item, Choice)]


@pytest.mark.parametrize("name", ["piqa.validation.jsonl", "piqa.validation.jsonl.gz"])
def test_a_file_is_found_by_its_name_packed_or_not(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ROWS)
    source, items = questions("piqa", tmp_path, limit=3)
    assert source == name
    assert items == [TASKS["piqa"].question(row) for row in ROWS[:3]]


def test_examples_are_the_first_that_are_not_the_question(tmp_path: Path) -> None:
    write(tmp_path / "piqa.validation.jsonl", ROWS)
    examples = [f"Question: q{number}\nAnswer: {'ab'[number % 2]}\n\n" for number in range(4)]
    found = contexts(tmp_path, "piqa", shots=2)
    assert found[0] == examples[1] + examples[2] + "Question: q0\nAnswer:"
    assert found[1] == examples[0] + examples[2] + "Question: q1\nAnswer:"
    assert found[3] == examples[0] + examples[1] + "Question: q3\nAnswer:"
    with pytest.raises(ConfigError, match="4 examples were asked for, but there are 3 beside the question"):
        questions("piqa", tmp_path, shots=4)


def test_each_subject_has_its_own_introduction_examples_and_limit(tmp_path: Path) -> None:
    write(tmp_path / "mmlu.test.jsonl", MMLU[2:])
    write(tmp_path / "mmlu.dev.jsonl", MMLU[:2])
    first, second = contexts(tmp_path, "mmlu", shots=1, limit=1)
    choices = "\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    introduction = "The following are multiple choice questions (with answers) about"
    assert first == f"{introduction} law.\n\nlaw 0{choices} B\n\nlaw 1{choices}"
    assert second == f"{introduction} high art.\n\nhigh_art 0{choices} B\n\nhigh_art 1{choices}"


def test_blimp_has_no_examples(tmp_path: Path) -> None:
    write(tmp_path / "blimp.jsonl", [{"sentence_good": "a", "sentence_bad": "b", "UID": "u"}])
    assert contexts(tmp_path, "blimp", shots=5) == [""]


@pytest.mark.parametrize("name", ["wikitext.test.jsonl", "wiki.test.raw", "wikitext-2.test.txt.gz"])
def test_wikitext_is_pages_or_the_text_of_all(tmp_path: Path, name: str) -> None:
    """Joined to be read; the words and bytes that count are those of the page before it was."""
    pages = [" = One = \n \n A word . \n", " = Two = \n \n Ten @-@ fold . \n"]
    content = "\n".join(pages).encode()
    if name.endswith(".jsonl"):
        write(tmp_path / name, [{"page": page} for page in pages])
    else:
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    first, second = questions("wikitext", tmp_path, shots=3).items
    assert first == Text(text=" = One =\n\nA word.\n", num_bytes=len(pages[0]), num_words=8)
    assert isinstance(second, Text)
    assert "Ten-fold." in second.text
    (tmp_path / name).unlink()
    (tmp_path / "wiki.test.raw").write_bytes(b"fine\nnot \xff\n")
    with pytest.raises(DataError, match=r"wiki\.test\.raw:2: byte 4 of the line is not UTF-8"):
        questions("wikitext", tmp_path)


def test_a_missing_file_is_named_with_where_it_may_be_had(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"sciq\.test\.jsonl: there is no such file.*allenai/sciq, test.*--data"
    ):
        questions("sciq", tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"goal": ', "is no JSON: Expecting value at column 9"),
        ('{"goal": "x"}', "the field 'sol1' is missing"),
        ('{"goal": "x", "sol1": "a", "sol2": "b", "label": "c"}', "is no row of this task"),
        ('{"goal": "x", "sol1": "a", "sol2": "b", "label": null}', "a field holds something else"),
        ("[1]", "a field holds something else"),
    ],
)
def test_a_row_that_is_none_is_named_by_its_line(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "piqa.validation.jsonl").write_text(json.dumps(ROWS[0]) + "\n\n" + line)
    with pytest.raises(DataError, match=rf"piqa\.validation\.jsonl:3: {reason}"):
        questions("piqa", tmp_path)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no task 'pica'; there are lambada, piqa.*Did you mean 'piqa'\?"
    ):
        questions("pica", tmp_path)
    with pytest.raises(ConfigError, match=r"Did you mean 'wikitext'\?"):
        questions("WikiText", tmp_path)
    with pytest.raises(ConfigError, match="shots is -1"):
        questions("piqa", tmp_path, shots=-1)
    (tmp_path / "piqa.validation.jsonl").touch()
    with pytest.raises(DataError, match="there is no question in it"):
        questions("piqa", tmp_path)


def test_every_task_reads_its_reference_file(shared: Path) -> None:
    for name in TASKS:
        assert questions(name, shared / "data" / "eval", limit=2).items
