"""The log of a run: one JSON object a line, in the order in which things happened.

{"kind": "training", "step": 12, "tokens": 49152, "loss": 5.1, ...}
{"kind": "validation", "step": 12, "tokens": 49152, "loss": 5.2, ...}
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from receptance import atomic
from receptance.errors import TrainingError

Record = dict[str, Any]


class MetricsLog:
    """Appends records to a file; a reader may watch it grow, line by line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: Record) -> None:
        """Write one record as a line, and hand it to the system."""
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until the disk has every record."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


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


def rewind_metrics(path: Path, step: int) -> list[Record]:
    """Forget the records of later steps than this, which a resumed run will write again; return the rest."""
    kept = [record for record in read_metrics(path) if record["step"] <= step] if path.exists() else []
    atomic.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept
