"""The memory that is free, and how long a document it can hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOM_A_BYTE = 8  # bytes of memory that a byte of a document takes while it is tokenised
SYSTEM = Path("/")  # where Linux tells of itself
GUESS = 2**34  # where nothing is known


def longest_document_bytes() -> int:
    """Return how many bytes a document may have, so that the memory that is free now suffices for it."""
    return available_bytes() // ROOM_A_BYTE


def available_bytes() -> int:
    """Return how many bytes of memory are free now; a guess where the system does not say."""
    free = free_bytes()
    if free is not None:
        return free
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # not every system has these names
        return GUESS


def free_bytes(*, with_swap: bool = False) -> int | None:
    """Return how many bytes of memory this process may still take; None where the system does not say."""
    memory = SYSTEM / "proc/meminfo"
    available = _number(memory, "MemAvailable:")
    if available is None:
        return None
    swap = _number(memory, "SwapFree:") or 0 if with_swap else 0
    return min(available * 2**10, *_left_by_groups()) + swap * 2**10


def _left_by_groups() -> Iterator[int]:
    """Yield how much the groups leave to this process that it is in: its container, or its job on a cluster.

    Of what they have taken, the files that are only kept in memory do not count. See cgroups(7).
    """
    try:
        lines = (SYSTEM / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    yield 2**62  # where there is none
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        is_first_version = bool(kinds)
        root = SYSTEM / "sys/fs/cgroup" / ("memory" if is_first_version else "")
        limit, taken = ("memory.limit_in_bytes", "total_rss") if is_first_version else ("memory.max", "anon")
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            allowed = _number(folder / limit, "")
            if allowed is not None:
                yield max(allowed - (_number(folder / "memory.stat", f"{taken} ") or 0), 0)
            if folder == root:
                break


def _number(path: Path, name: str) -> int | None:
    """Return the number that follows a name at the start of a line; None where there is none."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        word = (line.removeprefix(name).split() or [""])[0]
        if line.startswith(name) and word.isdecimal():
            return int(word)
    return None
