"""The one way this package writes a file that matters: whole, or not at all.

Whoever is killed, loses power or fills the disk while saving keeps the file of before. The bytes go to a
temporary file in the same folder, reach the disk (`fsync`), and only then take the name.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from receptance.errors import ConfigError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextmanager
def write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file to fill; when the block ends well, it takes the place of `path`.

    The temporary file exists, is empty, and may be replaced by the block. When the block raises, it is
    removed and `path` stays as it was. The permissions are those of an ordinary new file (the umask). A
    symbolic link is followed: what it points at is replaced.

    Raises OSError where the folder cannot be written.
    """
    path = Path(path).resolve()
    temporary = _beside(path)
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = os.fstat(handle).st_mode & 0o777  # what the umask left of 0666
        os.close(handle)
        yield temporary
        temporary.chmod(mode)  # some writers make files that only their owner can read
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what to tell
            temporary.unlink()
        raise
    sync(path.parent)


@contextmanager
def write_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; when the block ends well, it takes the name `path`.

    `path` must not exist, or be an empty folder, so that the files of two writers never mix. When the block
    raises, everything it wrote is removed.

    Raises ConfigError where `path` is a file, or a folder with something in it.
    """
    path = Path(path).resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path} exists already. Remove it, or write to another place.")
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*"), reverse=True):  # what a folder holds before the folder
            sync(file)
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder with all that it holds; at no moment does half of it stand under its name."""
    going = _beside(path)
    path.rename(going)
    shutil.rmtree(going)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left here; nobody may be writing here."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all, with its line ends as they are."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with write(path) as temporary:
        temporary.write_bytes(content)


def _beside(path: Path) -> Path:
    """Return a hidden name in the same folder that nobody else uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def sync(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names that a folder holds."""
    if path.is_dir() and os.name == "nt":
        return  # Windows keeps folders by itself and cannot open them
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
