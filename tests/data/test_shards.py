"""Shards are the same from however many processes, and killing these or their owner loses none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import receptance
from receptance.data import prepare, shards, unpacking
from receptance.errors import DataError

PROGRAM = """
import sys
from receptance.data import prepare, shards, unpacking
unpacking.CHUNK_BYTES = shards.SHARD_BYTES = 2000
prepare(sys.argv[1], sys.argv[2], tokenizer="bytes", processes=2)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "document {i} {"x" * (i % 90)}"}}\n' for i in range(3000)))
    return path


@pytest.fixture
def whole(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What one process makes without being interrupted."""
    monkeypatch.setattr(unpacking, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    prepare(source, tmp_path / "whole", tokenizer="bytes")
    return tmp_path / "whole"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_processes_make_what_one_makes(tmp_path: Path, source: Path, whole: Path) -> None:
    prepare(source, tmp_path / "two", tokenizer="bytes", processes=2)
    assert files(tmp_path / "two") == files(whole)


def test_an_error_in_another_process_is_raised_as_in_this_one(
    tmp_path: Path, source: Path, whole: Path
) -> None:
    with source.open("a") as file:
        file.write("not JSON\n")
    with pytest.raises(DataError, match=r"a\.jsonl:3001: this line is not JSON"):
        prepare(source, tmp_path / "out", tokenizer="bytes", processes=2)


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_killed_it_goes_on_and_leaves_no_process(
    tmp_path: Path, source: Path, whole: Path, seconds: float
) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(Path(receptance.__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, str(source), str(out)]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        while process.poll() is None and not list(out.glob(".shards/*.safetensors")):
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    group = process.pid  # the processes that it started are in its session
    for _ in range(1000):
        if not _lives(group):
            break
        time.sleep(0.01)
    assert not _lives(group)
    if (out / "data.json").exists():
        assert seconds
    prepare(source, out, tokenizer="bytes", overwrite=True)
    assert files(out) == files(whole)


def _lives(group: int) -> bool:
    """Whether a process of this session is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
