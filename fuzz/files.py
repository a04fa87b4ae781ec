"""Where a target puts its bytes, because most parsers read files."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path


@functools.cache
def folder() -> Path:
    """Return an empty folder of this process, in memory where there is such a place."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    made = Path(tempfile.mkdtemp(prefix="receptance-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def put(name: str, data: bytes) -> Path:
    """Write a file into the folder, in the place of the one before, and return its path."""
    path = folder() / name
    path.unlink(missing_ok=True)  # what was mapped of the one before stays as it is
    path.write_bytes(data)
    return path
