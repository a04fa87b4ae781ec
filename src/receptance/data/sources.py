"""Documents, one after the other: from text files, JSON lines, tables, folders of them, and standard input.

The name of a file decides how it is read. `.jsonl`, `.ndjson` and `.json` hold one JSON object a line, each
a document (`.json` may also be one array of them), `.parquet` a row each; any other file is one document.
Before that, `.gz`, `.xz`, `.bz2` and `.zst` are unpacked, and a `.zip` is read as the folder that is in it.
What a row may be, `data/rows.py` says; what begins with `hf:` is a dataset, see `data/tables.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Literal, cast

from receptance.data.archive import Archive, is_archive
from receptance.data.chunks import Chunk, DocumentReader, Errors
from receptance.data.document import Document
from receptance.data.rows import CONVERSATIONS, PAIRS
from receptance.data.tables import DATASET, PARQUET, is_table, parts_of, size_of, version_of
from receptance.data.unpacking import COMPRESSED, Limit, is_packed, named, unpacked, whole, whole_lines
from receptance.errors import DataError

JSON_LINES = (".jsonl", ".ndjson", ".json")
ARRAY = ".json"
STANDARD_INPUT = "-"
STANDARD_INPUT_IN_MEMORY = 2**26  # bytes; more goes to a temporary file


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file to read, or a member of an archive, which is open while it is read."""

    path: str
    source: int  # its number
    archive: Archive | None = None
    name: str = ""  # in the archive


class Sources:
    """The documents of files and folders, in a fixed order, as often as they are iterated over.

    A folder is searched recursively, in alphabetical order, for the files whose name (or path within the
    folder) matches one of the `include` globs; without any, for `.txt`, JSON lines and Parquet. Files and
    folders that match one of the `exclude` globs are left out, and so is what begins with a dot. A zip file
    is such a folder. Files named directly are always read, also where they are packed alone in a zip file.
    The source "-" is the stream `standard_input`: JSON lines where its first line is an object, else one
    document. A folder `leave_out` is never searched.

    For `text_field` and `errors` see `DocumentReader`. Documents without text are left out. What was left out
    is counted in `empty` and `undecodable`, of the latest iteration.

    Raises DataError, naming the file and the byte or line, for what cannot be read; ConfigError for a choice
    of `errors` that is none.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        text_field: str = "text",
        errors: Errors = "strict",
        leave_out: Path | None = None,
        standard_input: IO[bytes] | None = None,
    ) -> None:
        self.paths = tuple(str(path) for path in paths)
        self.include, self.exclude = tuple(include), tuple(exclude)
        self.text_field = text_field
        self.errors = errors
        self._leave_out = leave_out and leave_out.resolve()
        self._standard_input = standard_input
        self._reader = self.reader()
        self.bytes_read = 0  # of the files as they lie on the disk, in the latest iteration
        if not self.paths:
            raise DataError('No source of text was given. Name files or folders, or "-" for standard input.')
        if STANDARD_INPUT in self.paths and not (standard_input and standard_input.seekable()):
            raise DataError('The source "-" needs a seekable stream; see keep_standard_input().')

    def __iter__(self) -> Iterator[Document]:
        self._reader = self.reader()
        self.bytes_read = 0
        for _, chunk in self.chunks():
            self.bytes_read += chunk.size
            yield from self._reader.read(chunk)

    @property
    def empty(self) -> int:
        """How many documents without text the latest iteration left out."""
        return self._reader.empty

    @property
    def undecodable(self) -> int:
        """How many documents that are not UTF-8 the latest iteration left out."""
        return self._reader.undecodable

    def reader(self) -> DocumentReader:
        """Return what takes the chunks apart."""
        return DocumentReader(self.text_field, self.errors)

    def chunks(self) -> Iterator[tuple[int, Chunk]]:
        """Yield (number of the source, part of it) in order; a part is small, or one long document."""
        for file in self._files():
            yield from ((file.source, chunk) for chunk in self._chunks(file))

    def share(self, task: int, tasks: int) -> Iterator[tuple[int, Chunk]]:
        """Yield what `chunks` does, but only the parts that begin in one task's share of all bytes.

        Those of all `tasks`, one after the other, are all parts. Files that are packed are not cut.
        """
        total = max(1, self.bytes_to_read())

        def task_of(byte: int) -> int:
            return min(byte * tasks // total, tasks - 1)

        begin = 0
        for file in self._files():
            size = self._size(file)
            is_cut = not is_packed(file.path) and file.archive is None
            if task_of(begin) <= task <= task_of(begin + max(size - 1, 0) * is_cut):
                position = begin
                for chunk in self._chunks(file):
                    if task_of(position) == task:
                        yield file.source, chunk
                    position += chunk.size * is_cut
            begin += size

    def bytes_to_read(self) -> int:
        """Return the bytes that all files have on the disk."""
        return sum(map(self._size, self._files()))

    def _size(self, file: _File) -> int:
        if file.archive is not None:
            return file.archive.packed_size(file.name)
        if file.path == STANDARD_INPUT and self._standard_input:
            return self._standard_input.seek(0, os.SEEK_END)
        return size_of(file.path) if is_table(file.path) else Path(file.path).stat().st_size

    def files(self) -> Iterator[str]:
        """Yield the paths of all files in the order in which they are read.

        Raises DataError for a path that does not exist, and for a folder without a file to read.
        """
        return (file.path for file in self._files())

    def _files(self) -> Iterator[_File]:
        for number, path in enumerate(self.paths):
            if path == STANDARD_INPUT or path.startswith(DATASET):
                yield _File(path=path, source=number)
            elif Path(path).is_file():
                file = _File(path=path, source=number)
                yield from self._unpacked(path, number) if is_archive(path) else (file,)
            elif Path(path).is_dir():
                yield from self._chosen(path, self._search(Path(path), number))
            elif Path(path).exists():
                raise DataError(f'{path} is neither a file nor a folder. Pipe it in, with "-" as the source.')
            else:
                hint = " Fetch it first; a dataset of the hub is hf:ORG/NAME." if "://" in path else ""
                raise DataError(f"{path}: no such file or folder.{hint}")

    def _unpacked(self, path: str, number: int) -> Iterator[_File]:
        """Yield the files to read of an archive that was named directly."""
        members = self._members(path, Path(), number)
        if sum(1 for _ in self._members(path, Path(), number)) == 1:
            yield from (file for _, file in members)
        else:
            yield from self._chosen(path, members)

    def _chosen(self, place: str, files: Iterable[tuple[Path, _File]]) -> Iterator[_File]:
        """Yield the files whose names, or paths within a folder or archive, are those of texts."""
        found = 0
        passed_over: Counter[str] = Counter()
        for inside, file in files:
            if self._is_included(inside):
                found += 1
                yield file
            else:
                passed_over[inside.suffix or "no suffix"] += 1
        if not found:
            wanted = ", ".join(self.include) or f".txt, {', '.join(JSON_LINES)}, {PARQUET}"
            others = ", ".join(f"{count} with {suffix}" for suffix, count in passed_over.most_common(5))
            raise DataError(
                f"{place} has no file to read: wanted {wanted}; found {others or 'none'}. "
                'Say which files hold text, for instance --include "*.md".'
            )

    def _search(self, folder: Path, number: int) -> Iterator[tuple[Path, _File]]:
        """Yield the files in a folder, and in its archives, with their paths within it."""
        for root, folders, names in _walk(folder):
            inside = Path(root).relative_to(folder)
            folders[:] = sorted(
                name
                for name in folders
                if self._is_wanted(inside / name)
                and (self._leave_out is None or Path(root, name).resolve() != self._leave_out)
            )
            for name in sorted(names):
                path = Path(root, name)
                if not self._is_wanted(inside / name) or not path.is_file():
                    continue
                if is_archive(name):
                    yield from self._members(str(path), inside / name, number)
                else:
                    yield inside / name, _File(path=str(path), source=number)

    def _members(self, path: str, inside: Path, number: int) -> Iterator[tuple[Path, _File]]:
        """Yield the files in an archive, which lies at `inside`."""
        with Archive(path) as archive:
            for name in archive.names:
                place = Path(name)
                if all(self._is_wanted(inside / part) for part in (place, *place.parents[:-1])):
                    yield (
                        inside / name,
                        _File(path=f"{path}/{name}", source=number, archive=archive, name=name),
                    )

    def _is_wanted(self, path: Path) -> bool:
        return not path.name.startswith(".") and not any(_matches(path, pattern) for pattern in self.exclude)

    def _is_included(self, path: Path) -> bool:
        if self.include:
            return any(_matches(path, pattern) for pattern in self.include)
        return _kind(path.name) in (".txt", *JSON_LINES, PARQUET)

    def _chunks(self, file: _File) -> Iterator[Chunk]:
        if is_table(file.path):
            with named(file.path):
                yield from _table(file.path)
        else:
            yield from self._read(file)

    def _read(self, file: _File) -> Iterator[Chunk]:
        """Yield the chunks of a file that is no table."""
        path, size = file.path, self._size(file)
        with named(path), ExitStack() as stack:
            packed = stack.enter_context(self._open(file))
            stream = stack.enter_context(unpacked(path, packed)) if is_packed(path) else packed
            limit = Limit(path, size=size, is_packed=is_packed(path) or file.archive is not None)
            kind = self._kind_of(path, stream)
            before = position = 0
            if kind != "lines":
                data = whole(stream, limit)
                yield Chunk(path=path, kind=kind, size=size, data=data)
                return
            for first, data in whole_lines(stream, limit):
                now = packed.tell()
                if file.archive is not None:
                    now = now * size // max(1, file.archive.size(file.name))
                yield Chunk(
                    path=path, kind=kind, size=now - before, data=data, position=position, first=first
                )
                before, position = now, position + len(data)

    def _open(self, file: _File) -> AbstractContextManager[IO[bytes]]:
        """Return the bytes of a file, still packed where its name says so."""
        if file.archive is not None:
            return file.archive.open(file.name)
        if file.path == STANDARD_INPUT and self._standard_input:
            self._standard_input.seek(0)
            return nullcontext(self._standard_input)
        return Path(file.path).open("rb")

    def _kind_of(self, path: str, stream: IO[bytes]) -> Literal["text", "lines", "array"]:
        """Say what a file holds, and rewind it."""
        if path == STANDARD_INPUT:
            is_json = self._is_row(stream.readline())
            stream.seek(0)
            return "lines" if is_json else "text"
        if _kind(path) == ARRAY:
            begins = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            stream.seek(0)
            if begins.startswith(b"["):
                return "array"
        return "lines" if _kind(path) in JSON_LINES else "text"

    def _is_row(self, line: bytes) -> bool:
        """Whether a line is an object that could be a document."""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False
        fields = {self.text_field, *CONVERSATIONS, *(name for pair in PAIRS for name in pair)}
        return isinstance(row, dict) and not fields.isdisjoint(row)


def _table(path: str) -> Iterator[Chunk]:
    """Yield the chunks of a table; its bytes are shared out by rows."""
    parts = list(parts_of(path))
    size, version = size_of(path), version_of(path)
    rows = max(1, sum(count for _, count in parts))
    for first, count in parts:
        share = size * (first + count) // rows - size * first // rows
        yield Chunk(path=path, kind="table", size=share, first=first + 1, rows=count, version=version)


@contextmanager
def keep_standard_input() -> Iterator[IO[bytes]]:
    """Yield all of standard input as a stream that can be read again, in a temporary file if it is long."""
    with tempfile.SpooledTemporaryFile(STANDARD_INPUT_IN_MEMORY) as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        yield cast("IO[bytes]", kept)


def _kind(name: str) -> str:
    """Return the suffix that says what a file holds, that of the packing apart."""
    path = Path(name)
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    return path.suffix.lower()


def _matches(path: Path, pattern: str) -> bool:
    """Whether a glob fits the name, or the path within the searched folder."""
    pattern = pattern.removeprefix("**/").rstrip("/")
    return fnmatchcase(path.name, pattern) or fnmatchcase(path.as_posix(), pattern)


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    try:
        yield from os.walk(folder, onerror=_raise)
    except RecursionError as error:  # of Python 3.11
        raise DataError(f"{folder} holds folders in folders too deep to be searched.") from error


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be searched: {error.strerror}.") from error
