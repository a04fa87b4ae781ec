"""Documents of text, one after the other: from text files, JSON lines, folders of them, and standard input.

The name of a file decides how it is read. `.jsonl`, `.ndjson` and `.json` hold one JSON object a line, each
a document; any other file is one document. Before that, `.gz`, `.xz`, `.bz2` and `.zst` are unpacked.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import lzma
import os
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Literal, cast

from receptance.errors import ConfigError, DataError

JSON_LINES = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
STANDARD_INPUT = "-"
STANDARD_INPUT_IN_MEMORY = 2**26  # bytes; more goes to a temporary file

# A packed document may unpack to so many bytes, or to so many times the bytes of its file: natural text packs
# to a third or a tenth, a bomb to a thousandth.
UNPACKED_BYTES = 2**24
UNPACKED_RATIO = 64

Errors = Literal["strict", "replace", "skip"]


class Sources:
    """The texts of all documents of files and folders, in a fixed order, as often as they are iterated over.

    A folder is searched recursively, in alphabetical order, for the files whose name (or path within the
    folder) matches one of the `include` globs; without any, for `.txt` and JSON lines, packed or not. Files
    and folders that match one of the `exclude` globs are left out, and so is what begins with a dot. Files
    named directly are always read. The source "-" is the stream `standard_input`: JSON lines where its first
    line is an object with the text field, else one document. A folder `leave_out` is never searched.

    `errors` says what becomes of a document that is not UTF-8: "strict" raises, "replace" puts U+FFFD in
    place of the wrong bytes, "skip" leaves it out. Documents without text are left out. What was left out
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
        self._bytes_before = 0  # of the files finished
        self._reading: IO[bytes] | None = None
        self.empty = self.undecodable = 0
        if errors not in ("strict", "replace", "skip"):
            raise ConfigError(f"errors is {errors!r}, but it must be 'strict', 'replace' or 'skip'.")
        if not self.paths:
            raise DataError('No source of text was given. Name files or folders, or "-" for standard input.')
        if STANDARD_INPUT in self.paths and not (standard_input and standard_input.seekable()):
            raise DataError('The source "-" needs a seekable stream; see keep_standard_input().')

    def __iter__(self) -> Iterator[str]:
        self.empty = self.undecodable = self._bytes_before = 0
        for path in self.files():
            for text in self._read(path):
                if not text or text.isspace():
                    self.empty += 1
                else:
                    yield text

    @property
    def bytes_read(self) -> int:
        """How many bytes of the files, as they lie on the disk, the latest iteration has read."""
        return self._bytes_before + (self._reading.tell() if self._reading else 0)

    def bytes_to_read(self) -> int:
        """Return the bytes that all files have on the disk."""
        return sum(
            self._standard_input.seek(0, os.SEEK_END)
            if path == STANDARD_INPUT and self._standard_input
            else Path(path).stat().st_size
            for path in self.files()
        )

    def files(self) -> Iterator[str]:
        """Yield the paths of all files in the order in which they are read.

        Raises DataError for a path that does not exist, and for a folder without a file to read.
        """
        for path in self.paths:
            if path == STANDARD_INPUT or Path(path).is_file():
                yield path
            elif Path(path).is_dir():
                yield from self._search(Path(path))
            elif Path(path).exists():
                raise DataError(f'{path} is neither a file nor a folder. Pipe it in, with "-" as the source.')
            else:
                raise DataError(f"{path}: no such file or folder.")

    def _search(self, folder: Path) -> Iterator[str]:
        found = 0
        passed_over: Counter[str] = Counter()
        for root, folders, names in _walk(folder):
            inside = Path(root).relative_to(folder)
            folders[:] = sorted(
                name
                for name in folders
                if self._is_wanted(inside / name)
                and (self._leave_out is None or Path(root, name).resolve() != self._leave_out)
            )
            for name in sorted(names):
                if not self._is_wanted(inside / name) or not Path(root, name).is_file():
                    continue
                if self._is_included(inside / name):
                    found += 1
                    yield str(Path(root, name))
                else:
                    passed_over[Path(name).suffix or "no suffix"] += 1
        if not found:
            wanted = ", ".join(self.include) or f".txt, {', '.join(JSON_LINES)}"
            others = ", ".join(f"{count} with {suffix}" for suffix, count in passed_over.most_common(5))
            raise DataError(
                f"{folder} has no file to read: wanted {wanted}; found {others or 'none'}. "
                'Say which files hold text, for instance --include "*.md".'
            )

    def _is_wanted(self, path: Path) -> bool:
        return not path.name.startswith(".") and not any(_matches(path, pattern) for pattern in self.exclude)

    def _is_included(self, path: Path) -> bool:
        if self.include:
            return any(_matches(path, pattern) for pattern in self.include)
        return _kind(path.name) in (".txt", *JSON_LINES)

    def _read(self, path: str) -> Iterator[str]:
        with _named(path), self._open(path) as stream:
            limit = _limit(path)
            if path == STANDARD_INPUT:
                is_json_lines = self._has_text_field(stream.readline())
                stream.seek(0)
            else:
                is_json_lines = _kind(path) in JSON_LINES
            if is_json_lines:
                yield from self._read_lines(path, _lines(stream, limit, path))
            else:
                text = self._decode(_whole(stream, limit, path), path, 0)
                if text is not None:
                    yield text.removeprefix("\ufeff")

    def _read_lines(self, path: str, lines: Iterable[bytes]) -> Iterator[str]:
        position = 0
        for number, line in enumerate(lines, 1):
            origin = f"{path}:{number}"
            row = self._decode(line, origin, position)
            position += len(line)
            if row is None or not row.strip("\ufeff \t\r\n"):
                continue
            text = self._without_surrogates(_text_of(row, self.text_field, origin), origin)
            if text is not None:
                yield text

    def _decode(self, data: bytes, origin: str, position: int) -> str | None:
        """Return the text, or None where it is to be left out; data begins at this byte of the file."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if self.errors == "replace":
                return data.decode(errors="replace")
            if self.errors == "skip":
                self.undecodable += 1
                return None
            hint = " It looks like UTF-16." if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
            raise DataError(
                f"{origin}: byte {position + error.start:,} (0x{data[error.start]:02x}) is not UTF-8.{hint} "
                'Convert the file, or read it with errors "replace" or "skip".'
            ) from error

    def _without_surrogates(self, text: str, origin: str) -> str | None:
        """Treat the halves of surrogate pairs, which JSON can spell but UTF-8 cannot, like wrong bytes."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if self.errors == "strict":
                raise DataError(
                    f"{origin}: character {error.start:,} of the text is half a surrogate pair "
                    f"(\\u{ord(text[error.start]):04x}), which no text contains. "
                    'Correct the file, or read it with errors "replace" or "skip".'
                ) from error
            if self.errors == "skip":
                self.undecodable += 1
                return None
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    def _has_text_field(self, line: bytes) -> bool:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return isinstance(row, dict) and isinstance(row.get(self.text_field), str)

    @contextmanager
    def _open(self, path: str) -> Iterator[IO[bytes]]:
        """Yield the unpacked bytes of a file, while `bytes_read` follows the packed ones."""
        with ExitStack() as stack:
            if path == STANDARD_INPUT and self._standard_input:
                self._standard_input.seek(0)
                stream = self._reading = self._standard_input
            else:
                self._reading = stack.enter_context(Path(path).open("rb"))
                stream = stack.enter_context(_unpacked(path, self._reading))
            try:
                yield stream
            finally:
                self._bytes_before, self._reading = self.bytes_read, None


@contextmanager
def keep_standard_input() -> Iterator[IO[bytes]]:
    """Yield all of standard input as a stream that can be read again, in a temporary file if it is long."""
    with tempfile.SpooledTemporaryFile(STANDARD_INPUT_IN_MEMORY) as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        yield cast("IO[bytes]", kept)


def _text_of(line: str, field: str, origin: str) -> str:
    """Return the text field of one line of JSON."""
    try:
        row = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{origin}: this line is not JSON ({error}). JSON lines hold one whole object a line."
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{origin}: this line is a {type(row).__name__}, but an object with a field {field!r} is needed."
        )
    if field not in row:
        fields = ", ".join(repr(name) for name in list(row)[:20]) or "none"
        raise DataError(
            f"{origin}: this object has no field {field!r}; its fields: {fields}. "
            "Name the one that holds the text (--text-field)."
        )
    if not isinstance(row[field], str):
        raise DataError(
            f"{origin}: the field {field!r} is a {type(row[field]).__name__}, but text is needed."
        )
    return cast("str", row[field])


def _limit(path: str) -> int | None:
    """Return how many bytes a document may have, where they are packed."""
    if Path(path).suffix.lower() not in COMPRESSED:
        return None
    return max(UNPACKED_BYTES, UNPACKED_RATIO * Path(path).stat().st_size)


def _whole(stream: IO[bytes], limit: int | None, path: str) -> bytes:
    """Return all that a stream holds, read in pieces where there is a limit."""
    if limit is None:
        return stream.read()
    content = bytearray()
    while piece := stream.read(2**20):
        content += piece
        if len(content) > limit:
            raise _bomb(path, limit)
    return bytes(content)


def _lines(stream: IO[bytes], limit: int | None, path: str) -> Iterable[bytes]:
    return stream if limit is None else _bounded_lines(stream, limit, path)


def _bounded_lines(stream: IO[bytes], limit: int, path: str) -> Iterator[bytes]:
    while line := stream.readline(limit + 1):
        if len(line) > limit:
            raise _bomb(path, limit)
        yield line


def _bomb(path: str, limit: int) -> DataError:
    return DataError(
        f"{path}: a document in it unpacks to more than {limit:,} bytes, but text never packs into so few. "
        "If it is meant to, unpack the file first."
    )


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


def _unpacked(path: str, packed: IO[bytes]) -> IO[bytes]:
    match Path(path).suffix.lower():
        case ".gz":
            return cast("IO[bytes]", gzip.open(packed))
        case ".xz":
            return lzma.open(packed, format=lzma.FORMAT_XZ)
        case ".bz2":
            return bz2.open(packed)
        case ".zst":
            return cast("IO[bytes]", _zstandard(path).open(packed, "rb"))
        case _:
            return packed


def _zstandard(path: str) -> Any:  # two modules of the same interface, neither always there
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise DataError(
        f"{path}: reading .zst needs Python 3.14 or the package backports.zstd (pip install backports.zstd). "
        "Or unpack the file first."
    )


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Put the name of the file before whatever goes wrong while it is read."""
    try:
        yield
    except (OSError, EOFError, MemoryError, lzma.LZMAError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason or "the memory does not suffice"
        raise DataError(f"{path}: cannot be read: {reason}.") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":  # of whichever module unpacks it
            raise DataError(f"{path}: cannot be read: {error}.") from error
        raise


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    try:
        yield from os.walk(folder, onerror=_raise)
    except RecursionError as error:  # of Python 3.11
        raise DataError(f"{folder} holds folders in folders too deep to be searched.") from error


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be searched: {error.strerror}.") from error
