"""The zip archive that `torch.save` writes, checked before torch sees it.

Torch reads sizes from the pickle and places from the archive and, under memory mapping, compares neither with
the other. Compressed or overlapping records could make a small file fill the memory.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from receptance.errors import CheckpointError

MAX_DIRECTORY_BYTES = 1_000_000  # that of a model with 61 layers has 0.2 million
MAX_PICKLE_BYTES = 1_000_000  # the pickle of a model with 61 layers has 0.3 million
_DIRECTORY_ENTRY_BYTES = 46  # without the name, the extra field and the comment behind it
_DIRECTORY_CHECKSUM = 16  # where in the entry the checksum stands
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, what the directory has too, lengths of name and extra


class _ShortReads(io.FileIO):
    """A file that refuses to read much at once, because `zipfile` reads a directory in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(
                f"it has {size:,} bytes, but of no model more than {MAX_DIRECTORY_BYTES:,}"
            )
        return super().read(size)


@dataclass(frozen=True)
class Record:
    """One member of the archive: its name below the root folder, and where its bytes lie in the file."""

    name: str
    start: int  # of its header
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Size of its contents."""
        return self.end - self.begin


def read_records(path: Path) -> list[Record]:
    """Return the records with the numbers of tensors, in the order of the file; raises as `members` does."""
    found = members(path)
    return [record for name, record in found.items() if name.startswith("data/") and record.num_bytes]


def members(path: Path) -> dict[str, Record]:
    """Return all records by name, in the order of the file.

    Raises CheckpointError, naming the record or the byte, when the archive is not as torch writes it.
    """
    records = _records(path)
    ends = [record.start for record in records] + [path.stat().st_size]
    for record, end in zip(records, ends[1:], strict=True):
        if record.end > end:
            raise CheckpointError(
                f"{path}: record {record.name!r} ends at byte {record.end:,}, but there is room for it only "
                f"up to byte {end:,}."
            )
    by_name = {record.name: record for record in records}
    if "data.pkl" not in by_name or len(by_name) != len(records):
        raise CheckpointError(
            f"{path}: the zip archive holds no single 'data.pkl', so torch did not write it."
        )
    if "constants.pkl" in by_name:
        raise CheckpointError(f"{path}: this is a TorchScript program, not weights. Save its state_dict().")
    if by_name["data.pkl"].num_bytes > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"{path}: 'data.pkl' has more than {MAX_PICKLE_BYTES:,} bytes, so it is no model."
        )
    return by_name


def fill_records(path: Path, contents: Iterable[Callable[[], memoryview]]) -> None:
    """Fill the records that hold the numbers of tensors, in the order in which torch numbered them.

    Torch left them empty, with checksums of zero; those are set too, for other readers of zip archives.
    """
    records = sorted(read_records(path), key=lambda record: int(record.name.removeprefix("data/")))
    checksums = {}
    with path.open("r+b") as file:
        for record, read in zip(records, contents, strict=True):
            numbers = read()
            file.seek(record.begin)
            file.write(numbers)
            checksums[record.start] = zlib.crc32(numbers).to_bytes(4, "little")
        for entry, start in _directory(path):
            if start in checksums:
                file.seek(entry + _DIRECTORY_CHECKSUM)
                file.write(checksums[start])


def _directory(path: Path) -> Iterator[tuple[int, int]]:
    """Yield where each entry of the archive's directory begins, and where the record's header does."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.start_dir
        for member in archive.infolist():
            yield entry, member.header_offset
            tail = (member.orig_filename.encode(), member.extra, member.comment)
            entry += _DIRECTORY_ENTRY_BYTES + sum(map(len, tail))


def _records(path: Path) -> list[Record]:
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path}: a .pth file is a zip archive and ends with its directory, but this one ends at "
                f"byte {path.stat().st_size:,} without one: it is cut off."
            )
        with _ShortReads(path) as whole, zipfile.ZipFile(whole) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: the directory of the zip archive is damaged: {error}.") from error
    with path.open("rb") as file:
        return [_record(path, file, member) for member in members]


def _record(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> Record:
    name = member.filename
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise CheckpointError(f"{path}: record {name!r} is compressed, which torch never does with weights.")
    if member.header_offset < 0:
        raise CheckpointError(
            f"{path}: the directory of the zip archive puts {name!r} before the file's start."
        )
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"{path}: record {name!r} does not begin at byte {member.header_offset:,}.")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    begin = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    return Record(name.partition("/")[2], member.header_offset, begin, begin + member.file_size)
