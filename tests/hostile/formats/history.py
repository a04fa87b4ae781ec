"""Saved texts: what a model remembers at positions of a text, in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from receptance.inference import history_file
from receptance.inference.history import History
from receptance.models import AnyModel
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats.safetensors import borders, pack, unpack
from tests.models.examples import example

FILE = "text.state"


@cache
def model() -> AnyModel:
    """Return the model that the texts are of."""
    return example("7", torch.float32)


def read(path: Path) -> object:
    """Go on with the text."""
    history = history_file.read(path, model())
    for point in history.points.values():
        tensors = {} if point.state is None else point.state.tensors()
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    history.extend([1])
    assert history.next_logits().shape == (model().config.vocabulary_size,)
    return history


@cache
def saved() -> bytes:
    """Return a text of five tokens, the last of which was written and not read, with a kept position."""
    history = History(model())
    history.extend([1, 2])
    history.keep()
    history.extend([3, 4])
    history.next_logits()
    history.append(5)
    with TemporaryDirectory() as folder:
        history_file.write(Path(folder) / FILE, history, model())
        return (Path(folder) / FILE).read_bytes()


def examples() -> list[Example]:
    """A text."""
    return [Example("text", {FILE: saved()}, FILE, {FILE: borders(saved())})]


def attacks() -> Iterator[Case]:
    """Lies of the header; the digest is of the tensors, so whoever lies about one has to make it anew."""
    (whole,) = examples()
    header, data = unpack(saved())

    def changed(what: str, new: Any, *, loads: bool | None = False) -> Case:
        return whole.with_file(what, FILE, pack(new, data), loads=loads)

    metadata = header["__metadata__"]
    for key in metadata:
        yield changed(
            f"without {key}", {**header, "__metadata__": {k: v for k, v in metadata.items() if k != key}}
        )
        for lie in ("", "0" * 64, "é", "\x1b[31m", "x" * 100_000, "9" * 5000, *map(str, values.COUNTS)):
            if lie != metadata[key]:
                yield changed(f"{key} is {lie[:20]!r}", {**header, "__metadata__": {**metadata, key: lie}})
        for lie in values.NOT_NUMBERS:
            if not isinstance(lie, str):
                yield changed(f"{key} is {lie!r}", {**header, "__metadata__": {**metadata, key: lie}})
    for name, text, _ in values.json_texts():
        yield whole.with_file(f"the header is {name}", FILE, pack(text, data))
        said = {**metadata, "config": text.decode("latin-1")}
        yield changed(f"the config is {name}", {**header, "__metadata__": said})
    for old in ("tokens", "2.wkv", "4.logits"):
        for new in (
            "",
            ".",
            "4.",
            ".wkv",
            "-1.wkv",
            "1e3.wkv",
            "99999999999999999999.wkv",
            "٤.wkv",
            "a" * 50_000,
        ):
            renamed = {(new if name == old else name): entry for name, entry in header.items()}
            yield changed(f"{old} is called {new[:20]!r}", renamed)
    with_digest = json.loads(json.dumps(header))
    with_digest["__metadata__"]["num_written"] = "6"
    yield changed("more written than there is", with_digest)


FORMAT = Format("history", read, examples, attacks)
