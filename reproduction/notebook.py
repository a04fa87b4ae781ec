"""What a claim has measured so far: each part is written down when done, so an interrupted claim goes on.

A part counts as long as the settings are the same; `--again` forgets all of them.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from receptance import atomic

Settings = Any  # a frozen dataclass of the claim's own
Value = TypeVar("Value")


@dataclass
class Notebook:
    """The parts of one claim at one scale, in a folder of their own."""

    folder: Path
    settings: Settings
    device: str = "cpu"
    texts: Sequence[Path] = ()  # what to train on; none: Python's own sources
    seconds: float = field(default=0.0, init=False)  # that the parts took, whenever that was

    # Any: what JSON holds; a value comes back as JSON gives it, so no tuples.
    def once(self, part: str, measure: Callable[[], Any]) -> Any:
        """Return what `measure` returned when it was first asked, now or before an interruption."""
        file = self.folder / f"{part}.json"
        basis = json.loads(
            json.dumps([asdict(self.settings), self.device, [str(path) for path in self.texts]])
        )
        if file.is_file():
            known = json.loads(file.read_text(encoding="utf-8"))
            if known["basis"] == basis:
                self.seconds += known["seconds"]
                return known["value"]
        began = time.perf_counter()
        value = measure()
        seconds = time.perf_counter() - began
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, json.dumps({"basis": basis, "seconds": seconds, "value": value}))
        self.seconds += seconds
        print(f"  {self.folder.name} {part}: {seconds:.1f} s", file=sys.stderr, flush=True)
        return json.loads(json.dumps(value))

    def forget(self) -> None:
        """Forget every part."""
        shutil.rmtree(self.folder, ignore_errors=True)
