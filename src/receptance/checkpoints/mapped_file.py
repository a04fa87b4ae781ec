"""Files as memory: a page is read when it is touched, and forgotten when the memory is needed for another."""

from __future__ import annotations

import mmap
import platform
from pathlib import Path

# Python names this flag of Linux from 3.13 on. Without it, a file larger than the memory could not be mapped:
# the system would have to keep room for every page being changed.
_MAP_NORESERVE = 0x4000


def read(path: Path) -> memoryview:
    """Return the bytes of a file, which is not empty.

    Changing them copies the page, so the file stays as it is. Raises OSError where it cannot be mapped.
    """
    with path.open("rb") as file:
        if platform.system() == "Linux":
            access = mmap.PROT_READ | mmap.PROT_WRITE
            return memoryview(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | _MAP_NORESERVE, access))
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
