"""The formats that can be written; a further one is one more entry in `WRITERS`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from receptance.checkpoints import gguf, huggingface, pickled, rwkv_cpp, single_file, web_rwkv
from receptance.checkpoints.contents import Contents
from receptance.checkpoints.generations import GENERATIONS, recognise
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import ConfigError

FormatName = Literal[
    "receptance", "pth", "transformers", "transformers-native", "gguf", "rwkv.cpp", "web-rwkv"
]

Write = Callable[[Path, StoredModel], None]


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A format that can be written."""

    write: Write
    suffix: str  # of its files; a folder has none
    says_config: bool = False  # whether it has a place for what the shapes of the tensors do not say
    rounds: Collection[str] = ()  # generations some of whose values may come back rounded
    holds_tuned_state: bool = False  # whether it has a place for a tuned initial state beside the weights
    quantized: Mapping[str, Write] = field(default_factory=dict)  # the same with matrices in so many bits


WRITERS: dict[FormatName, Writer] = {
    "receptance": Writer(
        write=single_file.write, suffix=".safetensors", says_config=True, holds_tuned_state=True
    ),
    "pth": Writer(write=pickled.write, suffix=".pth", holds_tuned_state=True),
    "transformers": Writer(write=huggingface.write, suffix="", says_config=True),
    "transformers-native": Writer(write=huggingface.write_native, suffix="", says_config=True),
    "gguf": Writer(write=gguf.write, suffix=".gguf", says_config=True, quantized=gguf.QUANTISED),
    "rwkv.cpp": Writer(write=rwkv_cpp.write, suffix=".bin", rounds=("4", "5"), quantized=rwkv_cpp.QUANTISED),
    "web-rwkv": Writer(
        write=web_rwkv.write, suffix=web_rwkv.SUFFIX, rounds=tuple(GENERATIONS), holds_tuned_state=True
    ),
}


def write(path: Path, model: StoredModel, format_name: str, quantization: str | None = None) -> Writer:
    """Write a model atomically, one weight at a time, and return the writer that did it.

    Raises ConfigError when there is no such format or quantisation, or it cannot hold the model;
    CheckpointError when a weight is not finite; OSError when the disk is full or the place is closed.
    """
    writer = next((writer for name, writer in WRITERS.items() if name == format_name), None)
    if writer is None:
        raise ConfigError(
            f"format is {format_name!r}, but it must be one of {', '.join(get_args(FormatName))}."
        )
    if quantization is not None and quantization not in writer.quantized:
        known = ", ".join(writer.quantized) or "none"
        raise ConfigError(
            f"{path}: the format {format_name!r} has no quantisation {quantization!r}, but {known}."
        )
    if model.tuned_state and not writer.holds_tuned_state:
        raise ConfigError(
            f"{path}: the format {format_name!r} cannot hold the tuned state that the model carries. Leave "
            "the state out (--state zero), or save in another format."
        )
    if not writer.says_config:
        _require_shapes_suffice(path, model, format_name)
    (writer.write if quantization is None else writer.quantized[quantization])(path, model)
    return writer


def format_of(path: Path) -> FormatName:
    """Return the format that the name of a destination tells; raises ConfigError where it tells none."""
    suffix = path.suffix if path.suffix[1:2].isalpha() else ""  # a number, as in rwkv-4.0, is none
    for name, writer in WRITERS.items():
        if writer.suffix == suffix:
            return name
    known = ", ".join(writer.suffix for writer in WRITERS.values() if writer.suffix)
    raise ConfigError(
        f"{path}: {suffix!r} says nothing about the format. "
        f"Use {known} or a folder without suffix, or give the format."
    )


def _require_shapes_suffice(path: Path, model: StoredModel, format_name: str) -> None:
    """Check that the shapes of the tensors say all there is to say about the model."""
    contents = Contents(path=path, format=format_name, weights=model.weights, files=())
    generation = recognise(contents)
    read_back = generation.config(**generation.sizes(contents))
    for entry in fields(model.config):
        ours, theirs = getattr(model.config, entry.name), getattr(read_back, entry.name)
        if ours != theirs:
            raise ConfigError(
                f"{path}: the format {format_name!r} cannot say that {entry.name} is {ours}; whoever "
                f"reads the file would use {theirs}. Save in another format."
            )
