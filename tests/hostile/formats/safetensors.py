"""Our own single file and bare safetensors files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from receptance import checkpoints
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.models.examples import EXAMPLES, example

OWN, BARE = "model.safetensors", "bare.safetensors"


def read(path: Path) -> object:
    """Load a checkpoint, and run the model that came of it."""
    checkpoint = checkpoints.load(path)
    assert all(torch.isfinite(parameter).all() for parameter in checkpoint.model.parameters())
    assert all(isinstance(text, str) for item in checkpoint.metadata.items() for text in item)
    with torch.inference_mode():
        logits, _ = checkpoint.model(torch.tensor([[0, checkpoint.model.config.vocabulary_size - 1]]))
    assert logits.shape == (1, 2, checkpoint.model.config.vocabulary_size)
    return checkpoint


def pack(header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> bytes:
    """Return a safetensors file in which anything may be wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def unpack(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a valid file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


@cache
def saved(
    generation: str, format_name: checkpoints.convert.FormatName = "receptance", file: str = OWN
) -> bytes:
    """Return a small model as `save` writes it into a file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / file
        checkpoints.save(example(generation, torch.float32), path, format=format_name)
        return path.read_bytes()


def borders(content: bytes) -> list[int]:
    """Return where the header's length, the header and some of the tensors end."""
    header, data = unpack(content)
    start = len(content) - len(data)
    ends = sorted(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    return [8, start, *(start + ends[i] for i in (0, len(ends) // 2, -1))]


def examples() -> list[Example]:
    """Every generation in our own format, and one without our header."""
    found = []
    for generation in EXAMPLES:
        content = saved(generation)
        found.append(Example(f"RWKV-{generation}", {OWN: content}, OWN, {OWN: borders(content)}))
    header, data = unpack(saved("4"))
    del header["__metadata__"]
    found.append(Example("bare", {BARE: pack(header, data)}, BARE, {BARE: borders(pack(header, data))}))
    return found


def attacks() -> Iterator[Case]:
    """Lies of the header, one at a time."""
    header, data = unpack(saved("4"))
    for length in (*values.UNSIGNED, len(json.dumps(header)) + 1, len(json.dumps(header)) - 1, 100_000_001):
        yield _case(f"header of {length} bytes", pack(header, data, length))
    for name, text, _ in values.json_texts():
        yield _case(f"header is {name}", pack(text, data))
        config = {**header["__metadata__"], "config": text.decode(errors="replace")}
        says_nothing = text == b"{}"  # then the sizes are those of the tensors
        yield _case(f"config is {name}", pack({**header, "__metadata__": config}, data), loads=says_nothing)
    yield from _entries(header, data)
    yield from _tensors(header, data)
    yield from _configs(header, data)
    yield from _metadata(header, data)
    yield from _special_files()


def _case(name: str, content: bytes, *, loads: bool | None = False) -> Case:
    return Case.of(name, {OWN: content}, OWN, loads=loads)


def _entries(header: dict[str, Any], data: bytes) -> Iterator[Case]:
    name = "blocks.1.att.key.weight"
    entry = header[name]
    begin, end = entry["data_offsets"]

    def changed(what: str, **fields: Any) -> Case:
        return _case(f"{name} with {what}", pack({**header, name: {**entry, **fields}}, data))

    for dtype in ("F4", "C64", "", None, 5, "f32", "BOOL", "I64", "F64", "F16", "F8_E4M3", ["F32"], "F32\0"):
        yield changed(f"dtype {dtype!r}", dtype=dtype)
    rows, columns = entry["shape"]
    shapes: tuple[Any, ...] = (
        [], [rows], [columns, rows], [rows * columns], [rows, columns, 1, 1], [-rows, -columns], [rows, -1],
        [rows, 0], [2**63, 2], [2**32, 2**32], [2**64, 1], [1] * 9, [1] * 1000 + [rows, columns], "24",
        None, {}, [True, rows * columns], [float(rows), columns], [[rows, columns]], [str(rows), columns],
    )  # fmt: skip
    for shape in shapes:
        yield changed(f"shape {str(shape)[:40]}", shape=shape)
    for count in values.COUNTS:
        yield changed(f"shape [{count}, {columns}]", shape=[count, columns])
        yield changed(f"begin {count}", data_offsets=[count, end])
        yield changed(f"end {count}", data_offsets=[begin, count])
    places: tuple[Any, ...] = (
        [end, begin], [begin + 1, end + 1], [begin - 4, end - 4], [begin, end + 4], [0, end - begin], [begin],
        [], None, [begin, end, end], [float(begin), end], [str(begin), str(end)], [None, None], {"0": begin},
        [len(data), len(data) + end - begin], [begin - 2**64, end - 2**64], [[begin], [end]],
    )  # fmt: skip
    for place in places:
        yield changed(f"place {place}", data_offsets=place)
    for field in entry:
        yield _case(
            f"{name} without {field}",
            pack({**header, name: {k: v for k, v in entry.items() if k != field}}, data),
        )
    text = json.dumps(header)
    again = json.dumps({name: entry})[1:-1]
    yield _case("a name twice", pack((text[:-1] + "," + again + "}").encode(), data))
    yield _case("dtype twice", pack(text.replace('"dtype"', '"dtype": "F32", "dtype"', 1).encode(), data))
    for value in (None, [], "F32", 3, {}):
        yield _case(f"entry is {value!r}", pack({**header, name: value}, data))


def _tensors(header: dict[str, Any], data: bytes) -> Iterator[Case]:
    name = "blocks.1.att.key.weight"
    begin, _ = header[name]["data_offsets"]
    for what, number in (("NaN", "nan"), ("an infinity", "inf"), ("minus infinity", "-inf")):
        value = torch.tensor(float(number)).numpy().tobytes()
        yield _case(f"{what} among the weights", pack(header, data[:begin] + value + data[begin + 4 :]))
    for missing in header.keys() - {"__metadata__"}:
        without = {n: e for n, e in header.items() if n != missing}
        if missing.startswith(("blocks.1.", "emb", "head")):
            yield _case(f"{missing} is not listed", pack(without, data))
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
    names = ["", "a", "blocks.2147483648.ln1.weight", "blocks.999999999.ln1.weight", "blocks.-1.ln1.weight"]
    names += ["blocks.1e9.ln1.weight", "blocks.٣.ln1.weight", "blocks.1000.ln1.weight", "__metadata__ "]
    names += ["a" * 1_000_000, "\x1b[2J\x1b]0;x\x07", "blocks.0.att.time_decay\x00", "rwkv.embeddings.weight"]
    for extra in (*names, *values.TRAVERSALS[:12]):
        yield _case(f"a tensor {extra[:60]!r} too many", pack({**header, extra: empty}, data))
    for old in ("emb.weight", "blocks.0.ln0.weight", "head.weight"):
        for new in ("\x1b[31m" + old, old + "\n", old.upper(), "../" + old, "a" * 1_000_000):
            renamed = {new if n == old else n: e for n, e in header.items()}
            yield _case(f"{old} is called {new[:40]!r}", pack(renamed, data))
    many = {f"{i:x}": {**empty, "data_offsets": [0, 0]} for i in range(20_000)}
    yield _case("20,000 empty tensors", pack(many, b""))
    yield _case("a header of 20 MB of spaces", pack(json.dumps(header).encode() + b" " * 20_000_000, data))


def _configs(header: dict[str, Any], data: bytes) -> Iterator[Case]:
    metadata = header["__metadata__"]
    config = json.loads(metadata["config"])

    def changed(what: str, new: Any, *, loads: bool | None = False) -> Case:
        said = {**metadata, "config": json.dumps(new)}
        return _case(f"config with {what}", pack({**header, "__metadata__": said}, data), loads=loads)

    for key, value in config.items():
        lies = (0, -1, 10**9, 2**63, 10**400) if type(value) is int else (-1, 0.0)
        for lie in (*lies, *values.NOT_NUMBERS):
            may_load = key == "layer_norm_epsilon" and lie in (0.0, -1, 1.5) and type(lie) is not bool
            yield changed(f"{key} {str(lie)[:20]!r}", {**config, key: lie}, loads=None if may_load else False)
    for key in ("numlayers", "__class__", "torch_dtype", "\x1b[31m", "a" * 100_000, "auto_map"):
        yield changed(f"a key {key[:20]!r}", {**config, key: "x"})


def _metadata(header: dict[str, Any], data: bytes) -> Iterator[Case]:
    metadata = header["__metadata__"]
    for value in (None, [], "x", 3, {"a": 1}, {"a": None}, {"a": ["b"]}, {"a": {"b": "c"}}):
        yield _case(f"metadata is {value!r}", pack({**header, "__metadata__": value}, data))
    for key, lies in {
        "format_version": ("", "0", "2", "-1", "1.0", "1\n", "9" * 10_000, "\x1b[31m", None),
        "format": ("RECEPTANCE", "", "x" * 1_000_000, None),
    }.items():
        for lie in lies:
            said = {**metadata, key: lie}
            loads = None if key == "format" and lie is not None else False  # then it is a bare file
            yield _case(
                f"{key} is {str(lie)[:20]!r}", pack({**header, "__metadata__": said}, data), loads=loads
            )
    for key in ("config", "format_version"):
        said = {k: v for k, v in metadata.items() if k != key}
        yield _case(f"metadata without {key}", pack({**header, "__metadata__": said}, data))


def _special_files() -> Iterator[Case]:
    def linked(target: str) -> Case:
        def put(folder: Path) -> Path:
            (folder / OWN).symlink_to(target)
            return folder / OWN

        return Case(f"a link to {target}", put)

    for target in (
        OWN,
        "missing",
        "/dev/zero",
        "/dev/null",
        "/proc/self/fd/0",
        ".",
        "/",
        "/dev/full",
        "/dev/random",
    ):
        yield linked(target)

    def pipe(folder: Path) -> Path:
        os.mkfifo(folder / OWN)
        return folder / OWN

    def nested(folder: Path) -> Path:
        (folder / OWN).mkdir()
        return folder / OWN

    def hub(folder: Path) -> Path:  # as the hub's cache has it
        (folder / "blobs").mkdir()
        (folder / "snapshots").mkdir()
        (folder / "blobs" / "0123").write_bytes(saved("4"))
        (folder / "snapshots" / OWN).symlink_to("../blobs/0123")
        return folder / "snapshots" / OWN

    yield Case("a pipe", pipe)
    yield Case("a folder of that name", nested)
    yield Case("a link to a blob", hub, loads=True)
    for name in (name for name in values.TRAVERSALS if "outside" not in name):
        yield Case(f"the path {name[:40]!r}", lambda folder, name=name: Path(f"{folder}/none/{name}"))
    for name, content in (
        ("zip", b"PK\x03\x04"),
        ("GGUF", b"GGUF"),
        ("pickle", b"\x80\x02"),
        ("lfs", b"version https://git-lfs"),
    ):
        yield _case(f"the content of a {name}", content + bytes(100))


FORMAT = Format("safetensors", read, examples, attacks, ("receptance", "safetensors"))
