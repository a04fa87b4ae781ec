"""Vocabulary files are read whole, and not at all where they are absurd."""

from __future__ import annotations

from pathlib import Path

from receptance.errors import TokenizerError


def read(path: Path, limit: int) -> bytes:
    """Return the bytes of a vocabulary file that has at most `limit` bytes.

    Raises TokenizerError where there is no such file, where it is not a regular file, or where it is larger.
    """
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise TokenizerError(f"{path}: {what}; a vocabulary file (.txt or .json) was needed.")
        size = path.stat().st_size
        if size > limit:
            raise TokenizerError(
                f"{path}: has {size:,} bytes, but a vocabulary has {limit:,} at most. Is it another file?"
            )
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror}).") from error
