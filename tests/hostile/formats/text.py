"""Texts to prepare: plain, JSON lines, packed, and folders of these."""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import lzma
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from receptance.data.sources import Sources
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format

LINES = b'{"text": "one"}\n{"text": "two \\u00e9\\n"}\n\n{"meta": 1, "text": "\xe6\x97\xa5"}\n'
PLAIN = "A text.\nAnd more of it: naïve.\n".encode()


def zstd() -> Any:
    """Return the module that packs and unpacks Zstandard."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    return None


def read(path: Path) -> object:
    """Read all documents, forgiving wrong bytes and not."""
    for errors in ("replace", "skip", "strict"):
        count = 0
        for document in Sources([path], errors=errors):
            document.text.encode()
            count += 1
    return count


def packers() -> dict[str, Any]:
    """Return how to pack, by suffix."""
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    return {**packers, ".zst": zstd().compress} if zstd() else packers


def examples() -> list[Example]:
    """A text and some lines, each plain and packed, and a folder."""
    found = [Example("text", {"a.txt": PLAIN}, "a.txt"), Example("lines", {"a.jsonl": LINES}, "a.jsonl")]
    for suffix, pack in packers().items():
        name = f"a.jsonl{suffix}"
        found.append(Example(f"lines in {suffix}", {name: pack(LINES)}, name))
    found.append(Example("folder", {"x/a.txt": PLAIN, "x/y/b.jsonl": LINES}, "x"))
    return found


def attacks() -> Iterator[Case]:
    """Lines that are no documents, bombs, and folders that lead astray."""
    for name, text, _ in values.json_texts():
        text = text.replace(b"\n", b" ")
        yield Case.of(f"a line of {name}", {"a.jsonl": LINES + text + b"\n"}, "a.jsonl", loads=None)
        if b'"a"' in text:
            line = text.replace(b'"a"', b'"text"')
            yield Case.of(f"a document of {name}", {"a.jsonl": line}, "a.jsonl", loads=None)
    for value in (None, 1, True, [], {}, ["a"], {"text": "a"}, 1.5, "", " ", "\x00", "\x1b[2J", "\u202e"):
        content = json.dumps({"text": value}).encode()
        yield Case.of(f"text is {value!r}", {"a.jsonl": content}, "a.jsonl", loads=isinstance(value, str))
    for field in ("messages", "conversations", "instruction", "prompt"):
        for value in (
            None,
            1,
            "a",
            [],
            [1],
            [[]],
            [{}],
            {"a": 1},
            [{"role": "\x1b[2J"}],
            [{"role": ["user"]}],
        ):
            content = json.dumps({field: value, "output": value, "completion": value}).encode()
            yield Case.of(f"{field} is {value!r}", {"a.jsonl": content}, "a.jsonl", loads=None)
    turns = json.dumps({"messages": [{"role": "user", "content": "a"}] * 30_000}).encode()
    yield Case.of("30,000 turns", {"a.jsonl": turns}, "a.jsonl", loads=True)
    for content in (b"[", b"[]", b"[1]", b'[{"text": "a"}]', b"[" * 100_000, b'[{"text": "a"}] x', b"[\xff]"):
        yield Case.of(f"the array {content[:16]!r}", {"a.json": content}, "a.json", loads=None)
    for name in ("\x1b[31m", "a" * 100_000, "\n"):
        content = json.dumps({name: "x"}).encode()
        yield Case.of(f"a field {name[:10]!r}", {"a.jsonl": content}, "a.jsonl")
    for content in (
        b"\xff\xfe\x00",
        b"\x00" * 10_000,
        b"\xc0\xaf" * 10,
        b"\xed\xa0\x80",
        "x".encode("utf-16"),
        b"\xef\xbb\xbf",
    ):
        yield Case.of(f"text {content[:8]!r}", {"a.txt": content}, "a.txt", loads=None)
        yield Case.of(f"lines {content[:8]!r}", {"a.jsonl": content}, "a.jsonl", loads=None)
    yield from _packed()
    yield from _folders()


def _packed() -> Iterator[Case]:
    zeros, spaces = bytes(40_000_000), b" " * 40_000_000
    for suffix, pack in packers().items():
        for kind in (".txt", ".jsonl"):
            name = f"a{kind}{suffix}"
            yield Case.of(f"40 MB of zeros in {name}", {name: pack(zeros)}, name, loads=None)
            yield Case.of(f"{name} in itself", {name: pack(pack(LINES))}, name)
            yield Case.of(f"a {name} that is plain", {name: LINES}, name)
            yield Case.of(f"an empty {name}", {name: b""}, name, loads=None)
            yield Case.of(f"two in one {name}", {name: pack(PLAIN) + pack(PLAIN)}, name, loads=None)
            yield Case.of(f"rubbish behind {name}", {name: pack(LINES) + b"rubbish"}, name, loads=None)
        name = f"a.jsonl{suffix}"
        line = b'{"text": "' + spaces + b'"}'
        yield Case.of(f"a line of 40 MB in {name}", {name: pack(line)}, name, loads=None)
        many = b'{"text": "x"}\n' * 30_000
        yield Case.of(f"30,000 lines in {name}", {name: pack(many)}, name, loads=True)
    alone = lzma.compress(PLAIN, lzma.FORMAT_ALONE)
    greedy = b"\x5d" + struct.pack("<I", 0xFFFF_FFFF) + alone[5:]  # a dictionary of 4 GB
    yield Case.of("a dictionary of 4 GB", {"a.txt.xz": greedy}, "a.txt.xz", loads=None)
    for name, size in (("512 MB", 34), ("4 GB", 40)):
        xz = bytearray(lzma.compress(PLAIN))
        end = 12 + 4 * (xz[12] + 1)  # of the block's header
        xz[xz.index(b"\x21\x01", 12, end) + 2] = size
        xz[end - 4 : end] = struct.pack("<I", zlib.crc32(xz[12 : end - 4]))
        yield Case.of(f"a dictionary of {name} in .xz", {"a.txt.xz": bytes(xz)}, "a.txt.xz", loads=None)
    yield Case.of("10,000 empty members", {"a.txt.gz": gzip.compress(b"") * 10_000}, "a.txt.gz", loads=None)
    yield Case.of(
        "a long name in the header",
        {"a.txt.gz": b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 3_000_000},
        "a.txt.gz",
    )
    if zstd():
        yield from _zstandard()


def _zstandard() -> Iterator[Case]:
    window = zstd().compress(PLAIN, options={zstd().CompressionParameter.window_log: 27})
    yield Case.of("a window of 128 MB", {"a.txt.zst": window}, "a.txt.zst", loads=None)
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    yield Case.of("a window of 2 GB", {"a.txt.zst": frame}, "a.txt.zst")
    claims = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + b"\x01\x00\x00"
    yield Case.of("a frame that claims 2^62 bytes", {"a.txt.zst": claims}, "a.txt.zst")
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", 2**32 - 1)
    yield Case.of("a frame to skip without an end", {"a.txt.zst": skippable}, "a.txt.zst")


def _folders() -> Iterator[Case]:
    def loop(folder: Path) -> Path:
        (folder / "x" / "y").mkdir(parents=True)
        (folder / "x" / "y" / "z").symlink_to("..")
        (folder / "x" / "a.txt").write_bytes(PLAIN)
        return folder / "x"

    def special(folder: Path) -> Path:
        (folder / "x").mkdir()
        os.mkfifo(folder / "x" / "pipe.txt")
        (folder / "x" / "zero.txt").symlink_to("/dev/zero")
        (folder / "x" / "missing.txt").symlink_to("missing")
        (folder / "x" / "itself.txt").symlink_to("itself.txt")
        (folder / "x" / "a.txt").write_bytes(PLAIN)
        return folder / "x"

    def pipe(folder: Path) -> Path:
        os.mkfifo(folder / "a.txt")
        return folder / "a.txt"

    def odd(folder: Path) -> Path:
        for name in ("a\nb.txt", "\x1b[2J.txt", "-rf.txt", " .txt", "é.txt", "a" * 200 + ".txt"):
            (folder / name).write_bytes(PLAIN)
        (folder / os.fsdecode(b"\xff.txt")).write_bytes(b"\xff")
        return folder

    def deep(folder: Path) -> Path:
        inner = folder
        for _ in range(300):
            inner /= "d"
            inner.mkdir()
        (inner / "a.txt").write_bytes(PLAIN)
        return folder

    yield Case("a folder in itself", loop, loads=True)
    yield Case("pipes and devices in a folder", special, loads=True)
    yield Case("a pipe", pipe)
    yield Case("odd names", odd)
    yield Case("300 folders in one another", deep, loads=True)
    yield Case("a folder of nothing", lambda folder: folder)
    for name in values.TRAVERSALS[:60]:
        yield Case(f"the path {name[:40]!r}", lambda folder, name=name: Path(f"{folder}/none/{name}"))
    for target in ("/dev/zero", "missing", "a.txt"):

        def linked(folder: Path, target: str = target) -> Path:
            (folder / "a.txt").symlink_to(target)
            return folder / "a.txt"

        yield Case(f"a link to {target}", linked)


FORMAT = Format("text", read, examples, attacks)
