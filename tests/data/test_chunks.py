"""What a chunk holds decides what it is taken for, and where it was found does not."""

from __future__ import annotations

from dataclasses import replace

from receptance.data.chunks import Chunk, DocumentReader

LINES = Chunk(path="a.jsonl", kind="lines", size=9, data=b'{"text": "a\\rb"}\n\n{"text": " "}\n', first=5)


def test_lines_end_with_line_feeds_alone() -> None:
    reader = DocumentReader("text", "strict")
    chunk = replace(LINES, data=LINES.data.replace(b"\n", b"\r\n"))
    assert [document.text for document in reader.read(chunk)] == ["a\rb"]
    assert reader.empty == 1


def test_the_identity_follows_from_the_contents() -> None:
    assert LINES.identity() == replace(LINES, path="elsewhere", size=1).identity()
    for other in (
        replace(LINES, data=b"{}"),
        replace(LINES, kind="text"),
        replace(LINES, kind="table", rows=3),
        replace(LINES, version="2"),
    ):
        assert other.identity() != LINES.identity()
