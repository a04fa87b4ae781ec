"""Folders of RWKV-6 and 7: those of flash-linear-attention, and the native layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from receptance.checkpoints import huggingface
from receptance.checkpoints.stored_model import from_module
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats.safetensors import borders, pack, read, saved, unpack
from tests.models.examples import example

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

# What every reader of these folders looks at, beside what only some do.
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_heads", "norm_eps")
OWN_SIZES = {
    "fla 6": ("proj_low_rank_dim", "gate_low_rank_dim", "expand_k", "expand_v", "receptance_divisor"),
    "fla 7": ("head_dim", "decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim"),
    "native 7": ("head_dim", "a_low_rank_dim", "v_low_rank_dim"),
}
IGNORED = ("num_heads",)  # RWKV-7 has its heads from the tensors


@cache
def files(dialect: str) -> dict[str, bytes]:
    """Return a folder as it is written; that of fla for RWKV-6 in two parts."""
    generation = dialect[-1]
    model = from_module(example(generation, torch.float32))
    if generation == "7":  # the only epsilon that these programs know for heads of four channels
        model = replace(model, config=replace(model.config, group_norm_epsilon=4e-5))
    with TemporaryDirectory() as place:
        folder = Path(place) / "model"
        if dialect == "fla 6":
            huggingface.write(folder, model, max_part_bytes=model.num_bytes * 2 // 3)
        elif dialect == "fla 7":
            huggingface.write(folder, model)
        else:
            huggingface.write_native(folder, model)
        return {
            path.name: path.read_bytes() for path in folder.iterdir() if path.name != "generation_config.json"
        }


def examples() -> list[Example]:
    """One folder a dialect."""
    return [
        Example(
            name,
            files(name),
            borders={f: borders(content) for f, content in files(name).items() if f.endswith(".safetensors")},
        )
        for name in OWN_SIZES
    ]


def attacks() -> Iterator[Case]:
    """Lies of the config, and weights that are not the model's."""
    for one in examples():
        config = json.loads(one.files[CONFIG])
        yield from _configs(one, config)
        for name in ("rwkv", "rwkv5", "rwkv6", "rwkv7", "rwkv6qwen2", "rwkv_hybrid", "llama"):
            loads = name == config["model_type"]
            yield changed(one, f"model_type {name}", {**config, "model_type": name}, loads=loads)
        for weights in sorted(file for file in one.files if file.endswith(".safetensors")):
            yield one.with_file(f"{weights} of another model", weights, saved("5.2"))
            yield from _weights(one, weights)


def changed(one: Example, what: str, config: Any, *, loads: bool | None = False) -> Case:
    return one.with_file(f"config with {what}", CONFIG, json.dumps(config).encode(), loads=loads)


def _configs(one: Example, config: dict[str, Any]) -> Iterator[Case]:
    for key in (*SIZES, *OWN_SIZES[one.name]):
        for lie in (*values.COUNTS[:2], *values.COUNTS[3:], 10**400, *values.NOT_NUMBERS):
            harmless = lie is None or key == "receptance_divisor" or (key in IGNORED and "7" in one.name)
            loads = None if harmless or (lie is True and "expand" in key) else False  # True is 1
            yield changed(one, f"{key} {str(lie)[:20]!r}", {**config, key: lie}, loads=loads)
    for key, value, loads in (
        ("attn", {"layers": [0], "num_heads": 1}, "fla" not in one.name),
        ("norm_first", False, "fla" not in one.name),
        ("norm_bias", False, False),
        ("tie_word_embeddings", "yes", True),
        ("tie_word_embeddings", True, True),
        ("auto_map", {"AutoModelForCausalLM": "evil--modeling.Evil"}, True),
        ("value_dim", [10**9] * 1000, True),
        ("context_length", 10**400, None),
    ):
        yield changed(one, f"{key} {str(value)[:20]}", {**config, key: value}, loads=loads)


def _weights(one: Example, file: str) -> Iterator[Case]:
    header, data = unpack(one.files[file])
    names = [name for name in header if name != "__metadata__"]
    for name in (names[0], names[-1]):
        shape = header[name]["shape"]
        for other in ([*shape, 1], [1, *shape], shape[::-1], [0], []):
            harmless = other in (shape, [1, *shape], [*shape, 1]) or ".0.att.v" in name  # nothing reads that
            loads = None if harmless else False
            lie = {**header, name: {**header[name], "shape": other}}
            yield one.with_file(f"{name} of shape {other}", file, pack(lie, data), loads=loads)
    old = next((name for name in names if ".1." in name), names[0])
    for number in ("-1", "99999999", "1000000000", "٣", "1e3", "00000000000001"):
        new = old.replace(".1.", f".{number}.")
        renamed = {new if name == old else name: entry for name, entry in header.items()}
        loads = None if new == old else False
        yield one.with_file(f"{old} of layer {number}", file, pack(renamed, data), loads=loads)


FORMAT = Format("dialects", read, examples, attacks, ("transformers", "transformers-native"))
