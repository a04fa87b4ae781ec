"""Parquet files, which another library reads: what it does with damage must not be worse than an error."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from receptance.data.sources import Sources
from tests.hostile.corpus import Case, Example, Format

FILE = "a.parquet"

# Imported here, so that no case counts its memory.
pyarrow: Any = None
with suppress(ModuleNotFoundError):
    importlib.import_module("pyarrow.parquet")
    pyarrow = importlib.import_module("pyarrow")


def written(rows: list[dict[str, Any]], **options: Any) -> bytes:
    """Return a table as a file."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, **options)
    return buffer.getvalue()


def read(path: Path) -> object:
    """Read all documents."""
    return sum(len(document.text.encode()) for document in Sources([path], errors="replace"))


def examples() -> list[Example]:
    """Two tables."""
    return [Example(name, {FILE: whole}, FILE) for name, whole in tables().items()]


def tables() -> dict[str, bytes]:
    """Return texts and conversations, packed in two ways."""
    if pyarrow is None:
        return {}
    texts = [{"text": f"text {i}", "id": i} for i in range(30)]
    chats = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "gpt", "content": "Yes"}]}] * 5
    return {
        "texts": written(texts, compression="none", write_page_checksum=True),
        "chats": written(chats, compression="gzip", write_page_checksum=True),
    }


def attacks() -> Iterator[Case]:
    """Columns of other types, and files that are none."""
    if pyarrow is None:
        return
    for value in (None, 1, 1.5, True, [], ["a"], {"text": "a"}, b"\xff", "\x00", "", " "):
        content = written([{"text": value}])
        yield Case.of(f"text is {value!r}", {FILE: content}, FILE, loads=isinstance(value, str))
    yield Case.of("no rows", {FILE: written([])}, FILE, loads=None)
    yield Case.of("no text", {FILE: written([{"a": 1}])}, FILE)
    bomb = written([{"text": " " * 10_000_000 + str(i)} for i in range(10)], compression="gzip")
    yield Case.of("100 MB of spaces", {FILE: bomb}, FILE, loads=None)
    for content in (
        b"",
        b"PAR1",
        b"PAR1PAR1",
        b"PAR1" + b"\xff" * 4 + b"PAR1",
        b"PARE" + bytes(100) + b"PARE",
    ):
        yield Case.of(f"{content[:12]!r}", {FILE: content}, FILE)
    for name, whole in tables().items():
        footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        for cut in range(0, len(whole), len(whole) // 20):
            yield Case.of(f"{name}, cut off at {cut}", {FILE: whole[:cut]}, FILE)
        for place in range(4, footer, footer // 30):
            damaged = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
            yield Case.of(f"{name}, bit 4 of byte {place} flipped", {FILE: damaged}, FILE, loads=None)
            zeros = whole[:place] + bytes(min(8, footer - place)) + whole[min(place + 8, footer) :]
            yield Case.of(f"{name}, zeros from byte {place} on", {FILE: zeros}, FILE, loads=None)
    whole = tables()["texts"]
    for size in (0, 1, 2**31 - 1, 2**32 - 1):
        lie = whole[:-8] + size.to_bytes(4, "little") + whole[-4:]
        yield Case.of(f"a footer of {size} bytes", {FILE: lie}, FILE)


FORMAT = Format("parquet", read, examples, attacks)
