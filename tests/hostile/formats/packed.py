"""Packed models: our safetensors file whose matrices are bytes that the native runtime reads in place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from receptance import checkpoints, native
from receptance.checkpoints import packed_weights, single_file
from receptance.checkpoints.stored_model import from_module
from receptance.quantization.packed import FORMATS, Format
from receptance.runtimes import NativeModel
from tests.hostile import corpus, values
from tests.hostile.corpus import Case, Example
from tests.hostile.formats.safetensors import borders, pack, unpack
from tests.models.examples import example

FILE = "model.safetensors"
NAME = "blocks.1.att.key.weight"


def read(path: Path) -> object:
    """Run the model as it lies there, which looks at no number before, and then load it."""
    stored = checkpoints.open_model(path)
    tokens = torch.tensor([[0, stored.config.vocabulary_size - 1]])
    if native.library() is not None:
        logits, _ = NativeModel.pack(stored, threads=1)(tokens)
        assert logits.shape == (1, 2, stored.config.vocabulary_size)
    model = checkpoints.load(path).model
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    return model


@cache
def saved(generation: str, matrix_format: Format) -> bytes:
    """Return a small packed model."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        model = from_module(example(generation, torch.float32))
        single_file.write(path, packed_weights.packed(model, matrix_format))
        return path.read_bytes()


def examples() -> list[Example]:
    """Every format, in three generations."""
    pairs = [("4", "int8"), ("4", "float32"), ("6", "bfloat16"), ("7", "int4")]
    contents = {f"RWKV-{generation} {kind}": saved(generation, kind) for generation, kind in pairs}  # type: ignore[arg-type]  # from a list
    return [
        Example(name, {FILE: content}, FILE, {FILE: borders(content)}) for name, content in contents.items()
    ]


def attacks() -> Iterator[Case]:
    """Lies about what is packed, one at a time."""
    header, data = unpack(saved("4", "int8"))
    metadata = header["__metadata__"]
    layout = json.loads(metadata["packed"])
    kind, shape = layout[NAME]

    def said(what: str, text: str, *, loads: bool | None = False) -> Case:
        content = pack({**header, "__metadata__": {**metadata, "packed": text}}, data)
        return Case.of(what, {FILE: content}, FILE, loads=loads)

    def changed(what: str, entries: Mapping[str, Any]) -> Case:
        return said(f"packed with {what}", json.dumps({**layout, **entries}))

    for name, text, _ in values.json_texts():
        yield said(f"packed is {name}", text.decode(errors="replace"))
    for entry in (
        None,
        5,
        "int8",
        [],
        [kind],
        [kind, shape, 1],
        [shape, kind],
        {"int8": shape},
        [kind, "24"],
    ):
        yield changed(f"the entry {entry!r}", {NAME: entry})
    for other in ("int3", "INT8", "", None, 8, ["int8"], "float64", "int8\x00", "\x1b[31m", "a" * 100_000):
        yield changed(f"the format {str(other)[:20]!r}", {NAME: [other, shape]})
    for other in (found for found in FORMATS if found != kind):
        yield changed(f"the format {other}", {NAME: [other, shape]})
    rows, columns = shape
    for count in (*values.COUNTS, *values.NOT_NUMBERS):
        yield changed(f"{str(count)[:30]} rows", {NAME: [kind, [count, columns]]})
        yield changed(f"{str(count)[:30]} columns", {NAME: [kind, [rows, count]]})
    for sizes in (
        [], [rows], [columns, rows], [rows, columns, 1], [1, rows, columns], [1] * 1000, [rows * columns],
        [2**40, 2**40], [rows + 16, columns], [rows, columns + 32], [[rows], [columns]],
    ):  # fmt: skip
        yield changed(f"the shape {str(sizes)[:30]}", {NAME: [kind, sizes]})
    for stranger in ("emb.weight", "blocks.0.ln1.weight", "blocks.0.att.time_decay", "x", "", "a" * 100_000):
        yield changed(f"{stranger[:30]!r} packed", {stranger: [kind, shape]})
    yield said("one is not packed", json.dumps({n: e for n, e in layout.items() if n != NAME}))
    yield from _numbers()


def _numbers() -> Iterator[Case]:
    """Numbers that no packing makes; a packed model is loaded without a look at them."""
    for generation, kind in (("4", "int8"), ("7", "int4"), ("6", "bfloat16"), ("4", "float32")):
        header, data = unpack(saved(generation, kind))  # type: ignore[arg-type]  # from a loop
        begin, end = header[NAME]["data_offsets"]
        for what, filling in (("ones", b"\xff"), ("infinity", b"\x80\x7f"), ("-128", b"\x80")):
            content = (filling * (end - begin))[: end - begin]
            whole = pack(header, data[:begin] + content + data[end:])
            yield Case.of(f"{kind} of {what}", {FILE: whole}, FILE, loads=None)


FORMAT = corpus.Format("packed", read, examples, attacks)
