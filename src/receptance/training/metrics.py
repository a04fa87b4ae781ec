"""The log of a run: one JSON object a line, in the order in which things happened.

{"kind": "training", "step": 12, "tokens": 49152, "loss": 5.1, ...}
{"kind": "validation", "step": 12, "tokens": 49152, "loss": 5.2, ...}
{"kind": "sample", "step": 12, "tokens": 49152, "prompt": "Once", "text": " upon a time ..."}
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from receptance import atomic
from receptance.errors import TrainingError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


class Sink(Protocol):
    """Takes the records of a run, one after the other."""

    def append(self, record: Record) -> None:
        """Take one record."""

    def close(self) -> None:
        """Write what is still to be written."""


class MetricsLog:
    """Appends records to a file, which a reader may watch grow line by line, and to the sinks in `also`.

    Without a path they are kept nowhere: of several processes, only the first has a log.
    """

    def __init__(self, path: Path | None, also: Sequence[Sink] = ()) -> None:
        self._also = also
        # Without a buffer nothing is left to be written, and to fail again, when the file is closed.
        self._file = (path or Path(os.devnull)).open("ab", buffering=0)

    def append(self, record: Record) -> None:
        """Write one record as a line, and hand it to the system and to the sinks."""
        line = memoryview(json.dumps(record, allow_nan=False).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]
        for sink in self._also:
            sink.append(record)

    def sync(self) -> None:
        """Wait until the disk has every record."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        for sink in self._also:
            sink.close()


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a log; a last line that was cut off is left out.

    Raises TrainingError where another line is not a record.
    """
    records: list[Record] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is cut off, or empty
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TrainingError(f"{path}: line {number} is not a JSON object: {line[:80]!r}.") from error
        records.append(record)
    return records


def last_step(path: Path) -> int:
    """Return the last step of which a log tells; 0 where there is none."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return max((record["step"] for record in map(_record, lines) if record is not None), default=0)


def rewind_metrics(path: Path, step: int) -> list[Record]:
    """Forget the records of later steps than this, which a resumed run will write again; return the rest.

    What is no record is forgotten too, with a warning where records to keep follow it. A loss of power leaves
    such lines at the end, because a log is on the disk for certain only up to the last snapshot.
    """
    kept: list[Record] = []
    unreadable: list[int] = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is None:
            unreadable.append(number)
        elif record["step"] <= step:
            if unreadable:
                logger.warning("%s: line %d was no record, and is left out.", path, unreadable[-1])
                unreadable.clear()
            kept.append(record)
    atomic.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def _record(line: bytes) -> Record | None:
    """Return the record that a line of a log is, or None."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None
