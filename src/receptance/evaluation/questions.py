"""The questions of a task, out of the files in a folder, with their examples before them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

from receptance.data.unpacking import COMPRESSED, named, unpacked
from receptance.errors import ConfigError, DataError
from receptance.evaluation.items import Asked, Text
from receptance.evaluation.recall import GENERATED
from receptance.evaluation.tasks import TASKS, Question, Task

LONGEST_LINE = 2**24  # bytes


def questions(name: str, folder: str | Path, *, shots: int = 0, limit: int | None = None) -> Asked:
    """Return the questions of a task, from its file in a folder.

    shots  examples before each question: the first of the file for examples, or else of the file itself, that
           are not the question; those of its own group. So most questions have the same, read once for all.
    limit  take only the first so many questions, of each group where there are several

    Raises ConfigError for an unknown task or numbers that make no sense, DataError where the file is missing
    or is none of this task.
    """
    if name not in TASKS:
        known = (*TASKS, *GENERATED)
        close = difflib.get_close_matches(name.lower(), known, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"there is no task {name!r}; there are {', '.join(known)}.{meant}")
    if shots < 0 or (limit is not None and limit < 1):
        raise ConfigError(f"shots is {shots} and limit {limit}: they count questions, from 0 and from 1 on.")
    task = TASKS[name]
    path = _find(name, task, task.files, Path(folder))
    found = _limited(list(_read(path, task)), limit)
    if not found:
        raise DataError(f"{path}: there is no question in it.")
    if not task.takes_examples:
        return Asked(path.name, found)
    asked = cast("list[Question]", found)  # a text takes no examples
    examples: dict[str, list[Question]] = {}
    if shots:
        source = _find(name, task, task.examples, Path(folder)) if task.examples else path
        for example in cast("Iterator[Question]", _read(source, task)):
            examples.setdefault(example.group, []).append(example)
    return Asked(
        path.name, [_with_examples(each, task, examples.get(each.group, []), shots) for each in asked]
    )


def _with_examples(question: Question, task: Task, examples: Sequence[Question], shots: int) -> Question:
    taken = list(islice((example for example in examples if example != question), shots))
    if len(taken) < shots:
        raise ConfigError(
            f"{shots} examples were asked for, but there are {len(taken)} beside the question"
            f"{f' about {question.group}' if question.group else ''}."
        )
    head = task.introduction(question.group) + "".join(example.example for example in taken)
    return question.after(head) if head else question


def _limited(found: list[Question | Text], limit: int | None) -> list[Question | Text]:
    if limit is None:
        return found
    counts: dict[str, int] = {}
    taken = []
    for question in found:
        counts[question.group] = counts.get(question.group, 0) + 1
        if counts[question.group] <= limit:
            taken.append(question)
    return taken


def _find(name: str, task: Task, files: Sequence[str], folder: Path) -> Path:
    for file in files:
        for suffix in ("", *COMPRESSED):
            path = folder / (file + suffix)
            if path.is_file():
                return path
    raise DataError(
        f"{folder / files[0]}: there is no such file, from which the task {name} takes its questions. It "
        f"holds a row a line, as JSON, of the data set {task.origin}, on the Hugging Face hub"
        f"{'; other names will do: ' + ', '.join(files[1:]) if len(files) > 1 else ''}. It may be packed "
        f"({', '.join(COMPRESSED)}). Name its folder with --data."
    )


def _read(path: Path, task: Task) -> Iterator[Question | Text]:
    with named(str(path)), path.open("rb") as packed, unpacked(str(path), packed) as stream:
        lines = enumerate(iter(partial(stream.readline, LONGEST_LINE), b""), 1)
        if task.rows and ".jsonl" not in path.suffixes:
            yield from map(task.question, task.rows(_decoded(path, lines)))
            return
        for number, line in lines:
            if not line.strip():
                continue
            try:
                yield task.question(json.loads(line.rstrip()))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}:{number}: is no JSON: {error.msg} at column {error.colno}."
                ) from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: is no row of this task: {error}.") from error
            except KeyError as error:
                raise DataError(
                    f"{path}:{number}: the field {error.args[0]!r} is missing; this task needs the fields of "
                    f"{task.origin}."
                ) from error
            except (AttributeError, IndexError, TypeError) as error:
                raise DataError(
                    f"{path}:{number}: a field holds something else than in {task.origin}: {error}."
                ) from error


def _decoded(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[str]:
    for number, line in lines:
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: byte {error.start} of the line is not UTF-8.") from error
