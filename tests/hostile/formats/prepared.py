"""Prepared folders: `data.json`, the stores that it describes, and the tokenizer that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from receptance.data import open_split, read_description
from receptance.data.description import open_tokenizer
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats import token_store, tokenizer_json

FILE = "data.json"


def read(path: Path) -> object:
    """Open all that a folder holds."""
    description = read_description(path)
    stores = [open_split(path, split) for split in description.splits]
    tokenizer = open_tokenizer(path)
    for store in stores:
        store.check_vocabulary(description.vocabulary_size)
    return stores, tokenizer


def description() -> dict[str, Any]:
    """Return an honest description."""
    split = {"documents": 4, "tokens": 12, "bytes_of_text": 30, "longest_document": 6}
    return {
        "tokenizer": "tokenizer.json", "tokenizer_file": "tokenizer.json", "vocabulary_size": 280,
        "end_of_text": 0, "splits": {"train": split}, "empty": 0, "undecodable": 0, "duplicates": 0,
        "made_by": {},
    }  # fmt: skip


def examples() -> list[Example]:
    """A folder with one split."""
    files = {
        FILE: json.dumps(description(), indent=2).encode(),
        **token_store.examples()[0].files,
        "tokenizer.json": tokenizer_json.small(),
    }
    return [Example("folder", files)]


def attacks() -> Iterator[Case]:
    """Lies of the description."""
    (example,) = examples()

    def changed(what: str, new: Any, *, loads: bool | None = False) -> Case:
        return example.with_file(what, FILE, json.dumps(new).encode(), loads=loads)

    honest = description()
    for name, text, _ in values.json_texts():
        yield example.with_file(name, FILE, text)
        yield example.with_file(
            f"made by {name}", FILE, json.dumps(honest).encode().replace(b"{}", text), loads=None
        )
    for name in values.TRAVERSALS:
        yield changed(f"tokenizer file {name[:40]!r}", {**honest, "tokenizer_file": name}, loads=None)
        nameless = {**honest, "tokenizer_file": None, "tokenizer": name}
        yield changed(f"tokenizer {name[:40]!r}", nameless, loads=None)
        yield changed(f"split {name[:40]!r}", {**honest, "splits": {name: honest["splits"]["train"]}})
    for key, value in honest.items():
        lies = [v for v in (*values.COUNTS[1:], *values.NOT_NUMBERS) if v != value]
        for lie in lies:
            loads = (
                None
                if key in ("made_by", "tokenizer", "tokenizer_file", "vocabulary_size", "splits")
                or type(lie) is int
                else False
            )
            yield changed(f"{key} is {str(lie)[:20]!r}", {**honest, key: lie}, loads=loads)
        yield changed(f"without {key}", {k: v for k, v in honest.items() if k != key})
    train = honest["splits"]["train"]
    for key in ("documents", "tokens"):
        for lie in (*values.COUNTS, *values.NOT_NUMBERS):
            yield changed(
                f"{key} of a split {str(lie)[:20]!r}", {**honest, "splits": {"train": {**train, key: lie}}}
            )
    yield changed("100,000 splits", {**honest, "splits": {f"{i}": train for i in range(10_000)}})
    for target in ("/dev/zero", ".", "missing", FILE):

        def linked(folder: Path, target: str = target) -> Path:
            example.case().put(folder)
            (folder / FILE).unlink()
            (folder / FILE).symlink_to(target)
            return folder

        yield Case(f"{FILE} is a link to {target}", linked)


FORMAT = Format("prepared folder", read, examples, attacks)
