"""Snapshots of runs: safetensors whose header says where a run stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from receptance.training.snapshot import FILE, Position, Snapshot, load_state
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats.safetensors import borders, pack, unpack


def read(path: Path) -> object:
    """Read a snapshot, and compute with where it stands."""
    snapshot = load_state(path)
    position = snapshot.position
    assert type(position.step) is int
    assert position.step >= 0
    assert position.tokens + 1 > 0
    assert position.seconds + 1.0 > 0
    for table in (snapshot.model, snapshot.data, snapshot.recipe):
        assert isinstance(table, dict)
    assert snapshot.guard.after(1.0).mean > -1e309
    return snapshot


@cache
def small() -> bytes:
    """Return a valid snapshot."""
    snapshot = Snapshot(
        position=Position(step=3, tokens=300, seconds=1.5), model={"num_layers": 2}, data={"tokens": 9},
        recipe={"run": {"seed": 1}}, tensors={"master.a": torch.ones(3, 4), "moment.a": torch.ones(3, 4)},
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        snapshot.save(Path(folder) / "snapshot")
        return (Path(folder) / "snapshot" / FILE).read_bytes()


def examples() -> list[Example]:
    """One snapshot."""
    return [Example("snapshot", {FILE: small()}, FILE, {FILE: borders(small())})]


def attacks() -> Iterator[Case]:
    """Lies of its header."""
    header, data = unpack(small())
    said = header["__metadata__"]

    def case(name: str, metadata: dict[str, str]) -> Case:
        return Case.of(name, {FILE: pack({**header, "__metadata__": metadata}, data)}, FILE)

    for key in ("position", "model", "data", "recipe", "guard"):
        for name, text, _ in values.json_texts():
            may_be_empty = text == b"{}" or "as key" in name
            new = {**said, key: text.decode(errors="replace")}
            if not may_be_empty and len(text) < 100_000 and b'{"a"' not in text:
                yield case(f"{key} is {name}", new)
        yield case(f"without {key}", {k: v for k, v in said.items() if k != key})
    position = json.loads(said["position"])
    for key in position:
        for lie in (-1, *values.NOT_NUMBERS):
            if not (key == "seconds" and lie == 1.5 and type(lie) is float):
                yield case(f"{key} is {lie!r}", {**said, "position": json.dumps({**position, key: lie})})
    yield case("another format", {**said, "format": "\x1b[2J"})
    yield case("a format of 1 MB", {**said, "format": "x" * 1_000_000})


FORMAT = Format("snapshot", read, examples, attacks)
