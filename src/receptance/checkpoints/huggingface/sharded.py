"""The weights of a folder: one file, or parts of bounded size with an index that says what lies where.

The parts are `model-00001-of-00003.safetensors` and so on, the index is `model.safetensors.index.json`, as
huggingface_hub writes them. Nothing but the files that the index names in its own folder is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from receptance.checkpoints import json_file, pickled, safetensors_file
from receptance.checkpoints.contents import Contents, Weight, weights
from receptance.checkpoints.names import wrapper_prefix
from receptance.errors import CheckpointError

FORMAT = "sharded safetensors"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
MAX_PART_BYTES = 5_000_000_000  # as huggingface_hub has it
_PART = re.compile(r"(?!\.)[\w.-]{1,200}", re.ASCII)
_METADATA = {"format": "pt"}  # transformers refuses files without


def index_of(folder: Path, file: str = WEIGHT_FILES[0]) -> Path:
    """Return where the index of weights lies that would otherwise be in one file."""
    return folder / f"{file}.index.json"


def read(folder: Path) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    """Return all tensors of a folder, mapped from their files, and these files.

    Raises CheckpointError, naming the file and the tensor, when there are none, one is missing or in two
    parts, or the index names anything but files of its folder.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return _read_file(folder / name), (folder / name,)
        if index_of(folder, name).is_file():
            return _read_parts(index_of(folder, name))
    raise CheckpointError(f"{folder}: there are no weights: none of {', '.join(WEIGHT_FILES)}, and no index.")


def read_official(folder: Path) -> Contents:
    """Return what a folder holds whose weights have the official names, beside which there is no config."""
    tensors, files = read(folder)
    prefix = wrapper_prefix(tensors)
    return Contents(
        path=folder,
        format=FORMAT,
        weights=weights({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}),
        files=files,
        name_in_file=lambda name: prefix + name,
    )


def write(folder: Path, named: Mapping[str, Weight], max_part_bytes: int = MAX_PART_BYTES) -> None:
    """Write weights into a folder, one at a time, in as many parts as the limit makes necessary.

    A weight that is larger than the limit has a part for itself.
    """
    parts = _split(named, max_part_bytes)
    if len(parts) == 1:
        safetensors_file.write_weights(folder / WEIGHT_FILES[0], named, _METADATA)
        return
    places: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        safetensors_file.write_weights(folder / name, part, _METADATA)
        places |= dict.fromkeys(part, name)
    size = sum(weight.num_bytes for weight in named.values())
    json_file.write(index_of(folder), {"metadata": {"total_size": size}, "weight_map": places})


def _split(named: Mapping[str, Weight], max_part_bytes: int) -> list[dict[str, Weight]]:
    parts: list[dict[str, Weight]] = [{}]
    size = 0
    for name, weight in named.items():
        if parts[-1] and size + weight.num_bytes > max_part_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = weight
        size += weight.num_bytes
    return parts


def _read_parts(index: Path) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    places = _places(index)
    tensors: dict[str, Tensor] = {}
    files = tuple(index.parent / name for name in sorted(set(places.values())))
    for path in files:
        part = _read_file(path)
        if twice := part.keys() & tensors.keys():
            raise CheckpointError(f"{path}: {min(twice)!r} is in another part too.")
        tensors |= part
    if missing := places.keys() - tensors.keys():
        raise CheckpointError(f"{index}: {min(missing)!r} is listed, but no part holds it.")
    return tensors, files


def _places(index: Path) -> dict[str, str]:
    """Return which file of the folder each tensor lies in, checked."""
    places = json_file.read(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: 'weight_map' must give a file name for each tensor.")
    for name in sorted(set(places.values())):
        if not _PART.fullmatch(name):
            raise CheckpointError(f"{index}: {name[:100]!r} is not the name of a file in this folder.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: {name!r} is listed, but it is not there.")
    return places


def _read_file(path: Path) -> dict[str, Tensor]:
    return pickled.read_tensors(path) if path.suffix == ".bin" else safetensors_file.read(path)[0]
