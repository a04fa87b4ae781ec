"""Answers kept in a file as they come, so that an evaluation that was cut off goes on where it was.

Each line is one answer under its key, which stands for the model and for all that it was asked, to the
letter. So other tasks, more questions or another model only add to the file, and nothing in it grows stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from receptance.checkpoints.fingerprint import fingerprint
from receptance.errors import DataError
from receptance.evaluation.encoding import Encoding
from receptance.evaluation.items import Item, Kept
from receptance.inference import Loaded
from receptance.runtimes import NativeModel

BEGINNING = b'{"key": '  # of every line


class KeptAnswers:
    """The answers in a file, and of this run those that were added; without a file, the latter alone."""

    def __init__(self, answers: dict[str, Kept], file: IO[str] | None) -> None:
        self._answers = answers
        self._file = file

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Kept:
        return self._answers[key]

    def add(self, key: str, answer: Kept) -> None:
        """Keep an answer; it outlives a process that is killed right after."""
        self._answers[key] = answer
        if self._file:
            self._file.write(json.dumps({"key": key, "answer": answer}) + "\n")
            self._file.flush()


@contextmanager
def kept_in(path: Path | None) -> Iterator[KeptAnswers]:
    """Open the answers in a file, which need not exist yet; None keeps them for this run alone.

    A line that was being written when a process was killed is left out. Raises DataError where the file is
    none of ours, OSError where it cannot be written.
    """
    if path is None:
        yield KeptAnswers({}, None)
        return
    answers, is_torn = _read(path)
    with path.open("a", encoding="utf-8") as file:
        if is_torn:
            file.write("\n")
        yield KeptAnswers(answers, file)


def _read(path: Path) -> tuple[dict[str, Kept], bool]:
    """Return the answers, and whether the last line has no end."""
    if not path.exists():
        return {}, False
    lines = path.read_bytes().split(b"\n")
    answers = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            answers[row["key"]] = row["answer"]
        except (ValueError, TypeError, KeyError) as error:
            if line.startswith(BEGINNING) or BEGINNING.startswith(line):
                continue  # it was never finished
            raise DataError(
                f"{path}:{number}: is no kept answer of an evaluation. Name another --output, or move this "
                "file away."
            ) from error
    return answers, bool(lines[-1])


def key_of(model: str, encoding: Encoding, item: Item) -> str:
    """Return the key of an item asked of a model; `model` is its `identity`."""
    asked = f"{model} {encoding.tokenizer.name} {encoding.prefix} {item!r}"
    return hashlib.blake2b(asked.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def identity(lm: Loaded) -> str:
    """Return what tells a model from every other: its weights, number format and tuned state."""
    runtime = lm.runtime
    if isinstance(runtime, NativeModel):
        digest = hashlib.sha256(runtime.fingerprint.encode())
    else:
        digest = hashlib.sha256(f"{fingerprint(runtime)} {runtime.dtype}".encode())
    if lm.tuned_state is not None:
        for tensor in lm.tuned_state.tensors().values():
            digest.update(tensor.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
