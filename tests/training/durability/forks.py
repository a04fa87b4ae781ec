"""Runs and saves in processes that are killed, or whose disk fails, at a chosen moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

# As in interposer.c.
FULL, BROKEN, INTERRUPTED, SHORT, KILLED_BEFORE, KILLED_AFTER = range(1, 7)


def reason_against() -> str | None:
    """Say why this machine cannot do it, or None."""
    if sys.platform != "linux":
        return "calls are intercepted by a library that Linux preloads"
    return None if shutil.which("cc") else "no C compiler"


class Forks:
    """A process with everything imported, whose forks see their calls below a folder fail as ordered."""

    def __init__(self, watched: Path, scratch: Path) -> None:
        library = scratch / "interposer.so"
        source = str(HERE / "interposer.c")
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), source, "-ldl"], check=True
        )
        paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        self._log = (scratch / "worker.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.durability.worker", str(watched)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=scratch,
            env={**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        )

    def order(self, do: str, **what: object) -> dict[str, Any]:
        """Have something done, and return how it ended: `code`, and `said`, `error` or `unexpected`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words = {key: str(value) if isinstance(value, Path) else value for key, value in what.items()}
        self._process.stdin.write(json.dumps({"do": do, **words}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, Path(self._log.name).read_text(encoding="utf-8")
        answer: dict[str, Any] = json.loads(line)
        assert "unexpected" not in answer, answer["unexpected"]
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
