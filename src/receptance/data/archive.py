"""Zip files: folders in a file, whose members are read where they lie; nothing is unpacked onto the disk.

A member has the path ARCHIVE.zip/NAME. Its name is compared with globs and quoted in errors, never opened, so
no name leads anywhere. Members that share bytes, by which a small file would hold any amount, are refused.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from receptance.data.unpacking import named
from receptance.errors import DataError

ARCHIVE = ".zip"
ENCRYPTED = 1  # a bit of the flags

# Others are rare, and `zipfile` unpacks them without a bound.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """A zip file that is open, as a context manager.

    Raises DataError, naming the archive or the member, for what is damaged, encrypted, packed in another way
    than deflate, or a zip itself.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with named(path), _opening(path):
            self._file = zipfile.ZipFile(path)
        # Of two members of one name the last counts, as for every program that unpacks. "/" ends a folder.
        members = {member.filename: member for member in self._file.infolist()}
        members = {name: member for name, member in members.items() if not name.endswith("/")}
        self._members = {name: members[name] for name in sorted(members, key=_place)}
        if sum(member.compress_size for member in self._file.infolist()) > Path(path).stat().st_size:
            self._file.close()
            raise DataError(f"{path}: cannot be read as zip: its members lie over each other.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """The names of all members, in the order in which a folder with them would be searched."""
        return list(self._members)

    def packed_size(self, name: str) -> int:
        """Return the bytes that a member has in the archive."""
        return self._members[name].compress_size

    def size(self, name: str) -> int:
        """Return the bytes that a member unpacks to, as the archive has it; no more are ever read."""
        return self._members[name].file_size

    def version(self, name: str) -> str:
        """Return what changes when a member does."""
        return f"{self._members[name].file_size} {self._members[name].CRC:08x}"

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a member as a stream. Its checksum is compared at its end."""
        member, path = self._members[name], f"{self.path}/{name}"
        if member.flag_bits & ENCRYPTED:
            raise DataError(f"{path}: is encrypted. Unpack {self.path} with its password first.")
        if member.compress_type not in METHODS:
            raise DataError(
                f"{path}: is packed by method {member.compress_type}, but of zip files only the usual one "
                f"(deflate) is read. Unpack {self.path} first."
            )
        if is_archive(name):
            raise DataError(f"{path}: is a zip file within another. Unpack {self.path} first.")
        with _opening(path):
            stream = self._file.open(member)
        with stream:
            yield stream


def is_archive(path: str) -> bool:
    """Whether the name of a file is that of a zip file."""
    return Path(path).suffix.lower() == ARCHIVE


def member_of(path: str) -> tuple[str, str] | None:
    """Return the path of the archive and the name of the member, where a path is that of a member."""
    for end in re.finditer(rf"\{ARCHIVE}(?=/)", path, re.IGNORECASE):
        if Path(path[: end.end()]).is_file():
            return path[: end.end()], path[end.end() + 1 :]
    return None


def _place(name: str) -> list[tuple[bool, str]]:
    """Return what sorts members as a search sorts files: those of a folder before its folders."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


@contextmanager
def _opening(path: str) -> Iterator[None]:
    """Put the path before whatever is wrong with a zip file or the head of a member."""
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, struct.error) as error:
        raise DataError(f"{path}: cannot be read as zip: {error}.") from error
