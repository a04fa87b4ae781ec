"""The one way this package reads a small file at once: whole, and not at all where it is absurd.

Devices and pipes never end, and a file of a stranger may be larger than the memory.
"""

from __future__ import annotations

from pathlib import Path

from receptance.errors import ReceptanceError


def read(path: Path, *, limit: int, needed: str, error: type[ReceptanceError]) -> bytes:
    """Return the bytes of a regular file that has at most `limit` of them.

    needed  what the file was to be, for the text of the error
    error   what is raised where there is no such file, where it is none, or where it is larger
    """
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise error(f"{path}: {what}; {needed} was needed.")
        size = path.stat().st_size
        if size > limit:
            raise error(
                f"{path}: has {size:,} bytes, but {needed} has {limit:,} at most. Is it another file?"
            )
        return path.read_bytes()
    except OSError as failure:
        raise error(f"{path}: cannot be read ({failure.strerror}).") from failure
