"""Our own format: one safetensors file that says all there is to know about the model.

The header's metadata hold `format`, `format_version`, `config` (JSON, with the generation), `tokenizer` (its
name) and whatever the user adds. Tensors have the official names. A safetensors file with official names and
without that header is read too.

Matrices may be packed as the native runtime reads them, which can then use them in place. Such a tensor is
bytes, and `packed` (JSON) says of each name the number format and the shape of the weight:
`{"head.weight": ["int4", [50277, 768]]}`. Files that have it are of version 2, others of version 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from receptance.checkpoints import packed_weights, safetensors_file
from receptance.checkpoints.contents import LONGEST_NAME, Contents, Weight, weights
from receptance.checkpoints.names import wrapper_prefix
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import CheckpointError, ConfigError
from receptance.quantization.packed import FORMATS, Format

FORMAT = "receptance"
PLAIN_VERSION, PACKED_VERSION = "1", "2"
LARGEST_SIZE = 2**40  # of an axis
_RESERVED = ("format", "format_version", "config", "tokenizer", "packed")


def read(path: Path) -> Contents:
    """Return what a safetensors file holds, its tensors mapped from the file without being copied.

    Raises CheckpointError, naming the tensor or the byte, when the file is damaged or of a newer version.
    """
    tensors, header = safetensors_file.read(path)
    metadata = {key: value for key, value in header.items() if key not in _RESERVED}
    if header.get("format") == FORMAT:
        _require_known_version(path, header)
        return Contents(
            path=path,
            format=FORMAT,
            weights=weights(tensors) | _packed(path, header, tensors),
            files=(path,),
            config=_json_object(path, header, "config"),
            tokenizer=header.get("tokenizer"),
            metadata=metadata,
        )
    prefix = wrapper_prefix(tensors)
    return Contents(
        path=path,
        format="safetensors",
        weights=weights({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}),
        files=(path,),
        metadata=metadata,
        name_in_file=lambda name: prefix + name,
    )


def write(path: Path, model: StoredModel) -> None:
    """Write a model in our own format, atomically; the same model always gives the same bytes.

    Raises ConfigError when the metadata use a key that is ours, or are no strings.
    """
    for key, value in model.metadata.items():
        if key in _RESERVED:
            raise ConfigError(f"metadata key {key!r} is taken by the format; choose another.")
        if not isinstance(value, str):
            raise ConfigError(f"metadata {key!r} is a {type(value).__name__}, but it must be a string.")
    layout = {
        name: (weight.packed.format, weight.shape) for name, weight in model.tensors.items() if weight.packed
    }
    header = {
        "format": FORMAT,
        "format_version": PACKED_VERSION if layout else PLAIN_VERSION,
        "config": json.dumps({"generation": model.config.generation, **asdict(model.config)}),
    }
    if model.tokenizer is not None:
        header["tokenizer"] = model.tokenizer
    if layout:
        header["packed"] = json.dumps(layout)
    tensors = {
        name: packed_weights.as_bytes(name, weight) if weight.packed else weight
        for name, weight in model.tensors.items()
    }
    safetensors_file.write_weights(path, tensors, {**header, **model.metadata})


def _require_known_version(path: Path, header: Mapping[str, str]) -> None:
    version = header.get("format_version", "")
    if version not in (PLAIN_VERSION, PACKED_VERSION):
        raise CheckpointError(
            f"{path}: its format_version is {version!r}, but this version of receptance reads "
            f"{PLAIN_VERSION!r} and {PACKED_VERSION!r}. Load it with a newer one."
        )


def _packed(path: Path, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Weight]:
    """Return the weights that are packed, if what the header says of each fits its bytes."""
    if header["format_version"] != PACKED_VERSION:
        return {}
    found = {}
    for name, entry in _json_object(path, header, "packed").items():
        place = f"{path}: {name[:LONGEST_NAME]!r}"
        matrix_format, shape = _format_and_shape(place, entry)
        if name not in tensors or tensors[name].dtype != torch.uint8 or tensors[name].ndim != 1:
            raise CheckpointError(f"{place} is packed, says the header, but there are no bytes of that name.")
        found[name] = packed_weights.from_bytes(place, name, shape, matrix_format, tensors[name])
    return found


def _format_and_shape(place: str, entry: object) -> tuple[Format, tuple[int, ...]]:
    match entry:
        case [("float32" | "bfloat16" | "int8" | "int4") as matrix_format, [*sizes]]:
            shape = tuple(size for size in sizes if type(size) is int and 0 < size <= LARGEST_SIZE)
            if len(shape) == len(sizes):
                return matrix_format, shape
    raise CheckpointError(
        f"{place}: the header's 'packed' says {str(entry)[:200]} of it, which is no format of "
        f"{', '.join(FORMATS)} and a shape."
    )


def _json_object(path: Path, header: Mapping[str, str], key: str) -> dict[str, object]:
    try:
        value = json.loads(header.get(key, ""))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {key!r} in the header is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {key!r} in the header is not a JSON object.")
    return value
