"""Zip files of texts: bombs, names that lead out, and directories that lie."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from receptance.data.sources import Sources
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format

FILE = "a.zip"
LINES = b'{"text": "one"}\n{"text": "two"}\n'
FILES = {"a.txt": b"A text.\n" * 20, "folder/b.jsonl": LINES * 20}


def packed(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as file:
        warnings.simplefilter("ignore")
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def read(path: Path) -> object:
    """Read all documents."""
    return sum(len(document.text.encode()) for document in Sources([path], errors="replace"))


def examples() -> list[Example]:
    """Two zip files, with their directories as borders."""
    stored, deflated = packed(FILES, zipfile.ZIP_STORED), packed(FILES)
    return [
        Example(name, {FILE: whole}, FILE, {FILE: [whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")]})
        for name, whole in (("stored", stored), ("deflated", deflated))
    ]


def attacks() -> Iterator[Case]:
    """Bombs, names, methods, and directories that lie."""
    bomb = packed({"a.txt": b" " * 40_000_000, "b.txt": b"b"})
    yield Case.of("40 MB of spaces", {FILE: bomb}, FILE, loads=None)
    yield Case.of("4 million blank lines", {FILE: packed({"a.jsonl": b"\n" * 4_000_000})}, FILE, loads=None)
    yield Case.of("a zip in a zip in a zip", {FILE: packed({"b.zip": packed({"c.zip": bomb})})}, FILE)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        whole = packed({"a.txt": b" " * 40_000_000}, method)
        yield Case.of(f"40 MB of spaces by method {method}", {FILE: whole}, FILE)
    for name in values.TRAVERSALS[:60]:
        name = "".join(character for character in name if character.isprintable())
        whole = packed({name[:1000] or "-": b"x", "x.txt": b"x"})
        yield Case.of(f"a member {name[:40]!r}", {FILE: whole}, FILE, loads=None)
    yield Case.of(
        "20,000 members", {FILE: packed({f"{i}.txt": b"" for i in range(20_000)})}, FILE, loads=None
    )
    whole = packed(FILES)
    entry, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    for offset, size in ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)):
        for value in (0, 1, 2**15, 2 ** (8 * size) - 1):
            lie = bytearray(whole)
            lie[entry + offset : entry + offset + size] = struct.pack(
                {2: "<H", 4: "<I"}[size], value % 2 ** (8 * size)
            )
            yield Case.of(f"{value} at {offset} of the entry", {FILE: bytes(lie)}, FILE, loads=None)
    for offset, size in ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2)):
        for value in (0, 1, 2 ** (8 * size) - 1):
            lie = bytearray(whole)
            lie[end + offset : end + offset + size] = struct.pack({2: "<H", 4: "<I"}[size], value)
            yield Case.of(f"{value} at {offset} of the end", {FILE: bytes(lie)}, FILE, loads=None)
    for content in (b"", b"PK", b"PK\x05\x06" + bytes(18), b"PK\x05\x06" + b"\xff" * 18, b"plain text"):
        yield Case.of(f"{content[:8]!r}", {FILE: content}, FILE)


FORMAT = Format("zipped", read, examples, attacks)
