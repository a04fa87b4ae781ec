"""A folder that one process at a time writes in, cleared of what a killed one left there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from receptance import atomic
from receptance.errors import ConfigError


@contextmanager
def claimed(folder: Path, doing: str, elsewhere: str) -> Iterator[None]:
    """Keep other processes out of a folder, and remove what a killed one left half written in it.

    The claim ends with the process, however that ends. `doing` is what the folder is claimed for, and
    `elsewhere` how its user says another one: both for the error.

    Raises ConfigError where another process has it.
    """
    with _locked(folder, f"another process is {doing} here. Wait until it has ended, or {elsewhere}"):
        atomic.remove_leftovers(folder)
        yield


@contextmanager
def _locked(folder: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of a folder, where the system has locks."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: {refusal}") from error
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(handle)
