"""The memory that is free, and how long a document it can hold."""

from __future__ import annotations

import os
from pathlib import Path

ROOM_A_BYTE = 8  # bytes of memory that a byte of a document takes while it is tokenised
MEMORY = Path("/proc/meminfo")
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of the container
GUESS = 2**34  # where nothing is known


def longest_document_bytes() -> int:
    """Return how many bytes a document may have, so that the memory that is free now suffices for it."""
    return available_bytes() // ROOM_A_BYTE


def available_bytes() -> int:
    """Return how many bytes of memory are free now, as far as the system tells."""
    limit = _number(LIMIT, "") or GUESS * 2**10
    available = _number(MEMORY, "MemAvailable:")
    if available:
        return min(limit, available * 2**10)
    try:
        return min(limit, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (AttributeError, ValueError, OSError):  # not every system has these names
        return min(limit, GUESS)


def _number(path: Path, name: str) -> int:
    """Return the number that follows a name at the start of a line; 0 where there is none."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    for line in lines:
        word = (line.removeprefix(name).split() or [""])[0]
        if line.startswith(name) and word.isdecimal():
            return int(word)
    return 0
