"""The result of a claim at a scale, as the file that the report is made of."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from receptance import atomic
from reproduction.claim import Check, Data

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came out, and how to get it again. Nothing did with a `failure`, or if something is `missing`."""

    claim: str
    scale: str
    command: str
    seconds: float = 0.0
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # Any: what JSON holds
    checks: tuple[Check, ...] = ()
    data: Data = field(default_factory=dict)
    plan: str = ""
    failure: str = ""
    missing: str = ""  # what it is measured with and this machine does not have

    def save(self, folder: Path) -> None:
        """Write the record where `records` finds it."""
        place = folder / self.scale
        place.mkdir(parents=True, exist_ok=True)
        atomic.write_text(place / f"{self.claim}.json", json.dumps(asdict(self), indent=1) + "\n")


def records(folder: Path, scale: str) -> Iterator[Record]:
    """Yield what is known at a scale, by the names of the claims."""
    for file in sorted((folder / scale).glob("*.json")):
        fields = json.loads(file.read_text(encoding="utf-8"))
        checks = tuple(Check(**check) for check in fields.pop("checks"))
        yield Record(**fields, checks=checks)


def versions() -> dict[str, str]:
    """Return the versions that figures depend on."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
