"""A claim ends with its process, and clears the folder of half-written files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import receptance
from receptance.claim import claimed
from receptance.errors import ConfigError

PROGRAM = """
import sys
from pathlib import Path
from receptance import atomic
from receptance.claim import claimed
folder = Path(sys.argv[1])
with claimed(folder, "cooking", "go out."), atomic.write(folder / "soup") as temporary:
    temporary.write_text("half")
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_gives_its_claim_and_its_half_written_file_back(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(receptance.__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"claimed\n"
        with (
            pytest.raises(ConfigError, match=r"another process is cooking here.*or go out\."),
            claimed(tmp_path, "cooking", "go out."),
        ):
            pytest.fail("two of them")
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGKILL)
    with claimed(tmp_path, "cooking", "go out."):
        assert not list(tmp_path.iterdir())
