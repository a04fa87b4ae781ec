"""Files of rwkv.cpp: counts, types, sizes and names that do not agree with the file or with each other."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from receptance import checkpoints
from tests.checkpoints.rwkv_cpp_models import GENERATIONS, model_of
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats.safetensors import read

FILE = "model.bin"
HEADER = struct.Struct("<6I")
ENTRY = struct.Struct("<3I")
FIELDS = ("magic", "version", "vocabulary", "channels", "layers", "type")
COUNTS = tuple(count for count in values.UNSIGNED if count < 2**32)


@dataclass(frozen=True)
class Part:
    """One tensor of a file; what is said of it need not fit what it holds."""

    sizes: tuple[int, ...]  # innermost first
    name: bytes
    kind: int
    data: bytes
    num_axes: int | None = None
    name_bytes: int | None = None

    def pack(self) -> bytes:
        """Return the bytes in the file."""
        axes = len(self.sizes) if self.num_axes is None else self.num_axes
        length = len(self.name) if self.name_bytes is None else self.name_bytes
        sizes = struct.pack(f"<{len(self.sizes)}I", *self.sizes)
        return ENTRY.pack(axes, length, self.kind) + sizes + self.name + self.data


def pack(header: tuple[int, ...], parts: list[Part]) -> bytes:
    """Return a file in which anything may be wrong."""
    return HEADER.pack(*header) + b"".join(part.pack() for part in parts)


def unpack(content: bytes) -> tuple[tuple[int, ...], list[Part]]:
    """Return the header and the tensors of a valid file without quantised ones."""
    parts, place = [], HEADER.size
    while place < len(content):
        num_axes, name_bytes, kind = ENTRY.unpack_from(content, place)
        sizes = struct.unpack_from(f"<{num_axes}I", content, place + ENTRY.size)
        begin = place + ENTRY.size + 4 * num_axes
        count = 1
        for size in sizes:
            count *= size
        end = begin + name_bytes + count * (4, 2)[kind]
        parts.append(
            Part(sizes, content[begin : begin + name_bytes], kind, content[begin + name_bytes : end])
        )
        place = end
    return HEADER.unpack_from(content), parts


@cache
def saved(generation: str, dtype: torch.dtype = torch.float32) -> bytes:
    """Return a small model as `save` writes it into a file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        checkpoints.save(model_of(generation, dtype), path, format="rwkv.cpp")
        return path.read_bytes()


def examples() -> list[Example]:
    """Every generation in 32 bits, and one in 16."""
    contents = {generation: saved(generation) for generation in GENERATIONS}
    contents["7 in 16 bits"] = saved("7", torch.float16)
    found = []
    for name, content in contents.items():
        _, parts = unpack(content)
        first = HEADER.size + len(parts[0].pack())
        borders = [4, HEADER.size, HEADER.size + ENTRY.size, HEADER.size + ENTRY.size + 8, first]
        marks = {FILE: [*borders, first + 12, len(content) - len(parts[-1].data)]}
        found.append(Example(f"RWKV-{name}", {FILE: content}, FILE, marks))
    return found


def _case(name: str, content: bytes, *, loads: bool | None = False) -> Case:
    return Case.of(name, {FILE: content}, FILE, loads=loads)


def attacks() -> Iterator[Case]:
    """Lies of the header and of the tensors, one at a time."""
    header, parts = unpack(saved("4"))
    for place, field in enumerate(FIELDS):
        for count in (*COUNTS, header[place] + 1, header[place] - 1, 99, 102):
            lie = (*header[:place], count % 2**32, *header[place + 1 :])
            # 0 and 1 are types; a version of 100 is as good.
            loads = None if lie == header or field == "type" or count in (100, 101) else False
            yield _case(f"{field} is {count}", pack(lie, parts), loads=loads)
    for kind in range(40):
        yield _case(f"the header's type is {kind}", pack((*header[:5], kind), parts), loads=None)
    yield from _tensors(header, parts)
    yield from _names(header, parts)
    yield from _numbers(header, parts)


def _changed(header: tuple[int, ...], parts: list[Part], index: int, what: str, **fields: Any) -> Case:
    part = replace(parts[index], **fields)
    whole = pack(header, [*parts[:index], part, *parts[index + 1 :]])
    return _case(f"{parts[index].name.decode()} with {what}", whole)


def _tensors(header: tuple[int, ...], parts: list[Part]) -> Iterator[Case]:
    matrix = next(i for i, part in enumerate(parts) if part.name == b"blocks.1.att.key.weight")
    columns, rows = parts[matrix].sizes
    for kind in (*range(2, 40), 2**31, 2**32 - 1):
        yield _changed(header, parts, matrix, f"type {kind}", kind=kind)
    for count in COUNTS:
        if count not in (columns, 2):
            yield _changed(header, parts, matrix, f"{count} axes", num_axes=count)
            yield _changed(header, parts, matrix, f"a name of {count} bytes", name_bytes=count)
            yield _changed(header, parts, matrix, f"{count} columns", sizes=(count, rows))
            yield _changed(header, parts, matrix, f"{count} rows", sizes=(columns, count))
            yield _changed(header, parts, matrix, f"{count} of all", sizes=(count, count, count))
    shapes: tuple[tuple[int, ...], ...] = (
        (), (columns * rows,), (rows * columns, 1), (1, columns * rows), (columns, rows, 0),
        (columns // 2, rows * 2), (2**32 - 1, 2**32 - 1), (2**31, 2**31, 4), (65536, 65536), (1, 1, 1),
    )  # fmt: skip
    for shape in shapes:
        yield _changed(header, parts, matrix, f"sizes {shape}", sizes=shape)
    for index, part in enumerate(parts):
        name = part.name.decode()
        yield _case(f"{name} is missing", pack(header, parts[:index] + parts[index + 1 :]))
        yield _case(f"{name} is there twice", pack(header, [*parts, part]))
    yield _case("no tensors", pack(header, []))
    yield _case("the other way round", pack(header, parts[::-1]), loads=True)
    empty = [Part((1,), b"%x" % number, 0, bytes(4)) for number in range(100_000)]
    yield _case("100,000 small tensors", pack(header, empty))
    yield _case("30,000 small tensors too many", pack(header, parts + empty[:30_000]))


def _names(header: tuple[int, ...], parts: list[Part]) -> Iterator[Case]:
    extra = ["blocks.2147483648.ln1.weight", "blocks.999999999.ln1.weight", "blocks.-1.ln1.weight", "a"]
    extra += [
        "blocks.1e9.ln1.weight",
        "blocks.٣.ln1.weight",
        "blocks.1000.ln1.weight",
        "blocks.9.att.x_rwkvag",
    ]
    extra += ["blocks.0.att.r_k", "blocks.0.att.gate.weight", "blocks.0.att.ln_x.weight", "blocks.0.att.w1"]
    extra += ["blocks.0.att.time_maa_x", "\x1b[2J\x1b]0;x\x07", "blocks.0.att.time_decay\x00", "a" * 300]
    for name in (*extra, *values.TRAVERSALS[:12], "rwkv.embeddings.weight", "\u202egpj"):
        part = Part((1,), name.encode(), 0, bytes(4))
        yield _case(f"a tensor {name[:60]!r} too many", pack(header, [*parts, part]))
    for raw in (b"", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"emb.weight\xff", b"\x00" * 255):
        yield _changed(header, parts, 0, f"the name {raw[:20]!r}", name=raw)


def _numbers(header: tuple[int, ...], parts: list[Part]) -> Iterator[Case]:
    for index in (0, 7, len(parts) - 1):
        for what in ("nan", "inf", "-inf"):
            data = struct.pack("<f", float(what)) + parts[index].data[4:]
            yield _changed(header, parts, index, what, data=data)
    decay = next(i for i, part in enumerate(parts) if part.name.endswith(b"time_decay"))
    yield _changed(header, parts, decay, "a decay that grows", data=struct.pack("<f", 1.0) * 24)
    for value in (0.0, -0.0, -1e-45, -3.4e38):
        content = replace(parts[decay], data=struct.pack("<f", value) * 24)
        whole = pack(header, [*parts[:decay], content, *parts[decay + 1 :]])
        yield _case(f"decays of {value}", whole, loads=True)
    scale = Part((32, 1), b"blocks.0.att.extra", 9, b"\xff" * 34)  # a scale that is no number
    yield _case("a block too many", pack(header, [*parts, scale]))
    yield _case("an old block", pack((header[0], 100, *header[2:]), [*parts, scale]))


FORMAT = Format("rwkv.cpp", read, examples, attacks, ("rwkv.cpp",))
