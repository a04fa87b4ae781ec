"""Folders of Hugging Face transformers: a config, weights in one file or in parts, and an index of these."""

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
from receptance.models import RWKV4, RWKV4Config
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats import torch_pickle
from tests.hostile.formats.safetensors import borders, pack, read, saved, unpack

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@cache
def files() -> dict[str, bytes]:
    """Return a folder as `save` writes it."""
    model = RWKV4(RWKV4Config(vocabulary_size=29, num_layers=2, hidden_size=16))
    model.initialise(torch.Generator().manual_seed(0))
    with TemporaryDirectory() as folder:
        checkpoints.save(model, Path(folder) / "model", format="transformers")
        return {path.name: path.read_bytes() for path in (Path(folder) / "model").iterdir()}


@cache
def in_parts(weights: bytes) -> dict[str, bytes]:
    """Return weights in two parts, and an index of them."""
    header, data = unpack(weights)
    names = [name for name in header if name != "__metadata__"]
    halves = names[::2], names[1::2]
    found = {}
    for part, half in zip(PARTS, halves, strict=True):
        chosen, pieces = {}, b""
        for name in half:
            begin, end = header[name]["data_offsets"]
            chosen[name] = {**header[name], "data_offsets": [len(pieces), len(pieces) + end - begin]}
            pieces += data[begin:end]
        found[part] = pack(chosen, pieces)
    places = {name: part for part, half in zip(PARTS, halves, strict=True) for name in half}
    found[INDEX] = json.dumps({"metadata": {"total_size": len(data)}, "weight_map": places}).encode()
    return found


def examples() -> list[Example]:
    """A folder with one file, one with two parts and an index, and one with official names and no config."""
    config, weights = files()[CONFIG], files()[WEIGHTS]
    return [
        Example("one file", {CONFIG: config, WEIGHTS: weights}, "", {WEIGHTS: borders(weights)}),
        Example("two parts", {CONFIG: config, **in_parts(weights)}),
        Example("official names", in_parts(saved("4"))),
    ]


def attacks() -> Iterator[Case]:
    """Lies of the config and of the index, and files that are not where or what they should be."""
    one, two, official = examples()
    for name, text, _ in values.json_texts():
        yield one.with_file(f"config is {name}", CONFIG, text)
        yield two.with_file(f"index is {name}", INDEX, text)
    yield from _configs(one)
    yield from _indices(two)
    yield from _indices(official)
    yield from _folders(one, two)


def _configs(example: Example) -> Iterator[Case]:
    config = json.loads(example.files[CONFIG])

    def changed(what: str, new: Any, *, loads: bool | None = False) -> Case:
        return example.with_file(f"config with {what}", CONFIG, json.dumps(new).encode(), loads=loads)

    for key in ("num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "layer_norm_epsilon"):
        for lie in (*values.COUNTS[:2], *values.COUNTS[3:], 10**400, *values.NOT_NUMBERS):
            yield changed(
                f"{key} {str(lie)[:20]!r}", {**config, key: lie}, loads=None if lie is None else False
            )
    for lie in ("", None, 3, [], {}, "RWKV", "llama", "rwkv\n", "x" * 1_000_000, "\x1b[31m", "../x"):
        yield changed(f"model_type {str(lie)[:20]!r}", {**config, "model_type": lie})
    for key, value in {
        "auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"},
        "trust_remote_code": True,
        "architectures": ["__import__('os').system('true')"],
        "_name_or_path": "http://127.0.0.1:1/",
        "torch_dtype": "float8",
        "context_length": 10**400,
        "tie_word_embeddings": "yes",
        "rescale_every": 0,
        "quantization_config": {"quant_method": "evil"},
        "chat_template": "{{ ''.__class__.__mro__ }}",
    }.items():
        yield changed(f"{key}", {**config, key: value}, loads=None)


def _indices(example: Example) -> Iterator[Case]:
    index = json.loads(example.files[INDEX])
    places = index["weight_map"]
    first = next(iter(places))

    def changed(what: str, new: Any) -> Case:
        return example.with_file(f"index with {what}", INDEX, json.dumps(new).encode())

    for name in values.TRAVERSALS:
        yield changed(f"a part {name[:40]!r}", {**index, "weight_map": {**places, first: name}})
    for value in (None, 3, [], "x", True, [PARTS[0]], {first: None}, {first: 3}, {first: [PARTS[0]]}, {}):
        yield changed(f"a map {value!r}", {**index, "weight_map": value})
    yield changed("a config as a part", {**index, "weight_map": {**places, first: CONFIG}})
    yield changed("itself as a part", {**index, "weight_map": {**places, first: INDEX}})
    yield changed("100,000 parts", {"weight_map": {f"{i}": f"{i}.safetensors" for i in range(30_000)}})
    yield changed("one of two parts", {"weight_map": dict.fromkeys(places, PARTS[0])})
    yield example.with_file("both parts the same", PARTS[1], example.files[PARTS[0]])


def _folders(one: Example, two: Example) -> Iterator[Case]:
    def without(example: Example, name: str) -> Case:
        left = {n: c for n, c in example.files.items() if n != name}
        return Case.of(f"{example.name}: without {name}", left)

    yield from (without(one, name) for name in one.files)
    yield from (without(two, name) for name in two.files)
    yield Case.of("an empty folder", {"x/y": b""})
    yield one.with_file("weights of RWKV-7", WEIGHTS, saved("7"))
    yield one.with_file("weights that are a .pth", WEIGHTS, torch_pickle.official())
    pickled = {CONFIG: one.files[CONFIG], "pytorch_model.bin": torch_pickle.official()}
    yield Case.of("official names in pytorch_model.bin", pickled, loads=None)
    program = torch_pickle.with_pickle(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    yield Case.of("a program in pytorch_model.bin", {**pickled, "pytorch_model.bin": program})
    yield Case.of("safetensors in pytorch_model.bin", {**pickled, "pytorch_model.bin": one.files[WEIGHTS]})
    modules = {**one.files, "modeling_evil.py": b"import os; os.system('true')", "__init__.py": b"1/0"}
    yield Case.of("programs beside the weights", modules, loads=True)
    alone = {WEIGHTS: one.files[WEIGHTS]}
    yield Case.of("weights without a config", alone, WEIGHTS)
    yield Case.of("weights without a config, by their folder", alone)
    for target in ("/dev/zero", "/dev/null", ".", "missing", WEIGHTS, CONFIG, INDEX):
        for name, example in ((CONFIG, one), (WEIGHTS, one), (PARTS[0], two), (INDEX, two)):
            yield _with_link(example, name, target)
    for name, example in ((CONFIG, one), (WEIGHTS, one), (PARTS[0], two), (INDEX, two)):
        yield _with_pipe(example, name)


def _with_link(example: Example, name: str, target: str) -> Case:
    def put(folder: Path) -> Path:
        path = example.case().put(folder)
        (folder / name).unlink()
        (folder / name).symlink_to(target)
        return path

    return Case(f"{example.name}: {name} is a link to {target}", put)


def _with_pipe(example: Example, name: str) -> Case:
    def put(folder: Path) -> Path:
        path = example.case().put(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        return path

    return Case(f"{example.name}: {name} is a pipe", put)


FORMAT = Format("transformers", read, examples, attacks, ("transformers", "sharded safetensors"))
