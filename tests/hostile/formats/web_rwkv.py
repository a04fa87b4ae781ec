"""Files of web-rwkv: safetensors in which names and shapes tell another layout, and may lie about it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from receptance import checkpoints
from tests.checkpoints.rwkv_cpp_models import model_of
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats.safetensors import borders, pack, read, unpack

FILE = "model.st"
GENERATIONS = ("4", "5.2", "6", "7")
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (5,), (2, 3), (4, 4, 4), (1,) * 5)


@cache
def saved(generation: str) -> bytes:
    """Return a small model as `save` writes it into a file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        checkpoints.save(model_of(generation, torch.float32), path, format="web-rwkv")
        return path.read_bytes()


def examples() -> list[Example]:
    """Every generation that the program knows."""
    contents = {generation: saved(generation) for generation in GENERATIONS}
    return [
        Example(f"RWKV-{name}", {FILE: content}, FILE, {FILE: borders(content)})
        for name, content in contents.items()
    ]


def _case(name: str, header: dict[str, Any], data: bytes, *, loads: bool | None = False) -> Case:
    return Case.of(name, {FILE: pack(header, data)}, FILE, loads=loads)


def attacks() -> Iterator[Case]:
    """What tells the layout is missing, doubled, misshapen or in another number format."""
    for generation in GENERATIONS:
        header, data = unpack(saved(generation))
        told = ("time_first", "time_mix_x", "time_mix_w1", "time_mix_w2", "w1", "r_k", "x_r")
        for name in (
            *(f"blocks.0.att.{tail}" for tail in told),
            "blocks.1.att.v1",
            "blocks.1.att.time_first",
        ):
            yield from _lies(f"RWKV-{generation}", header, data, name)
        extra = (
            "time_first",
            "time_faaaa",
            "time_maa_x",
            "time_mix_x",
            "w1",
            "r_k",
            "time_state",
            "x_rwkvag",
        )
        for name in (f"blocks.0.att.{tail}" for tail in extra):
            if name not in header:
                for shape in SHAPES:
                    yield _with_tensor(
                        f"RWKV-{generation}: {name} {shape} too many", header, data, name, shape
                    )


def _lies(title: str, header: dict[str, Any], data: bytes, name: str) -> Iterator[Case]:
    if name not in header:
        return
    others = {key: entry for key, entry in header.items() if key != name}
    begin, end = header[name]["data_offsets"]
    for shape in SHAPES:
        if list(shape) != header[name]["shape"]:
            yield _with_tensor(f"{title}: {name} is {shape}", _at_the_end(others), data, name, shape)
    without = data[:begin] + data[end:]
    moved = {key: _moved(entry, end, end - begin) for key, entry in others.items()}
    yield _case(f"{title}: {name} is missing", moved, without)
    for tail in ("time_faaaa", "time_first", "time_maa_x", "time_state", "w1"):
        other = name.rpartition(".")[0] + "." + tail
        if other not in header:
            # In a further layer, an official name of what lies there alike is as good.
            loads = None if tail == "time_faaaa" and ".1." in name else False
            renamed = {**others, other: header[name]}
            yield _case(f"{title}: {name} is called {tail}", renamed, data, loads=loads)
    for dtype in ("BF16", "I16", "F8_E4M3", "F32"):
        entry = {**header[name], "dtype": dtype}
        yield _case(f"{title}: {name} in {dtype}", {**others, name: entry}, data, loads=None)
    nan = data[:begin] + b"\x00\x7e" + data[begin + 2 :]
    yield _case(f"{title}: {name} holds nan", header, nan)


def _moved(entry: dict[str, Any], after: int, length: int) -> dict[str, Any]:
    if "data_offsets" not in entry or entry["data_offsets"][0] < after:
        return entry
    return {**entry, "data_offsets": [place - length for place in entry["data_offsets"]]}


def _at_the_end(header: dict[str, Any]) -> dict[str, Any]:
    """Return a header whose tensors leave no gap, though their numbers are then those of others."""
    place, packed = 0, {}
    for name, entry in header.items():
        if "data_offsets" in entry:
            begin, end = entry["data_offsets"]
            entry = {**entry, "data_offsets": [place, place + end - begin]}
            place += end - begin
        packed[name] = entry
    return packed


def _with_tensor(title: str, header: dict[str, Any], data: bytes, name: str, shape: tuple[int, ...]) -> Case:
    begin = max(entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry)
    end = begin + 2 * torch.empty(shape, device="meta").numel()
    entry = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    numbers = data[:begin] + bytes(end - begin)
    return _case(title, {**header, name: entry}, numbers, loads=None if len(shape) > 2 else False)


FORMAT = Format("web-rwkv", read, examples, attacks, ("web-rwkv",))
