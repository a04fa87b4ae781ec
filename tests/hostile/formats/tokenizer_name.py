"""The tokenizer that a checkpoint names in its header: a name, and no way to another folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from receptance import checkpoints
from receptance.inference import load
from receptance.models import RWKV4, RWKV4Config
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats import tokenizer_json, vocabulary
from tests.hostile.formats.safetensors import OWN, borders, pack, unpack

BESIDE = "own.json"


def read(path: Path) -> object:
    """Load a model with its tokenizer, and use it."""
    lm = load(path)
    assert lm.tokenizer.decode(lm.tokenizer.encode("a text")) == "a text"
    assert lm.tokenizer.vocabulary_size <= lm.config.vocabulary_size
    return lm


@cache
def saved(tokenizer: str | None) -> bytes:
    """Return a small model whose header names a tokenizer."""
    model = RWKV4(RWKV4Config(vocabulary_size=300, num_layers=1, hidden_size=8))
    model.initialise(torch.Generator().manual_seed(0))
    with TemporaryDirectory() as folder:
        checkpoints.save(model, Path(folder) / OWN, tokenizer="bytes")
        header, data = unpack((Path(folder) / OWN).read_bytes())
    metadata = {key: value for key, value in header["__metadata__"].items() if key != "tokenizer"}
    named = {} if tokenizer is None else {"tokenizer": tokenizer}
    return pack({**header, "__metadata__": metadata | named}, data)


def examples() -> list[Example]:
    """A name of ours, that of a file beside the model, and none."""
    files = {BESIDE: tokenizer_json.small()}
    own, unnamed = saved(BESIDE), {OWN: saved(None), "tokenizer.json": tokenizer_json.small()}
    return [
        Example("bytes", {OWN: saved("bytes")}, OWN, {OWN: borders(saved("bytes"))}),
        Example("own", {OWN: own, **files}, OWN, {OWN: borders(own)}),
        Example("unnamed", unnamed, OWN, {OWN: borders(unnamed[OWN])}),
    ]


def attacks() -> Iterator[Case]:
    """Names that lead elsewhere, and files beside the model that are none."""
    for name in (*values.TRAVERSALS, OWN, "x.txt", "BYTES.json", "bytes\x00", "a" * 100_000, "world.json"):
        yield Case.of(f"named {name[:60]!r}, {len(name)}", {OWN: saved(name)}, OWN)
    for name in ("world", "20b", "pile", "rwkv_vocab_v20230424", "20B_tokenizer", "gpt2", "0" * 63 + ".json"):
        yield Case.of(f"named {name!r}", {OWN: saved(name)}, OWN)  # too large for the model, or not there
    for name, content in (
        (BESIDE, saved("bytes")),
        (BESIDE, b"{}"),
        (BESIDE, vocabulary.base()),
        ("own.txt", tokenizer_json.small()),
        ("own.txt", b""),
        ("own.txt", b"import os; os.system('true')"),
    ):
        yield Case.of(f"{name} of {content[:20]!r}", {OWN: saved(name), name: content}, OWN)
    for target in ("/dev/zero", "/dev/null", ".", "missing", BESIDE, OWN):
        yield _linked(target)
    yield Case("a pipe beside the model", _with_pipe)


def _linked(target: str) -> Case:
    def put(folder: Path) -> Path:
        (folder / OWN).write_bytes(saved(BESIDE))
        (folder / BESIDE).symlink_to(target)
        return folder / OWN

    return Case(f"{BESIDE} is a link to {target}", put)


def _with_pipe(folder: Path) -> Path:
    (folder / OWN).write_bytes(saved(BESIDE))
    os.mkfifo(folder / BESIDE)
    return folder / OWN


FORMAT = Format("tokenizer name", read, examples, attacks)
