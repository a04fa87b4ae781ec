"""Our own format: one safetensors file that says all there is to know about the model.

The header's metadata hold `format`, `format_version`, `config` (JSON, with the generation), `tokenizer` (its
name) and whatever the user adds. Tensors have the official names. A safetensors file with official names and
without that header is read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from receptance.checkpoints import safetensors_file
from receptance.checkpoints.contents import Contents, weights
from receptance.checkpoints.names import wrapper_prefix
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import CheckpointError, ConfigError

FORMAT = "receptance"
FORMAT_VERSION = 1
_RESERVED = ("format", "format_version", "config", "tokenizer")


def read(path: Path) -> Contents:
    """Return what a safetensors file holds, its tensors mapped from the file without being copied.

    Raises CheckpointError, naming the tensor or the byte, when the file is damaged or of a newer version.
    """
    tensors, header = safetensors_file.read(path)
    metadata = {key: value for key, value in header.items() if key not in _RESERVED}
    if header.get("format") == FORMAT:
        return Contents(
            path=path,
            format=FORMAT,
            weights=weights(tensors),
            files=(path,),
            config=_config(path, header),
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
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps({"generation": model.config.generation, **asdict(model.config)}),
    }
    if model.tokenizer is not None:
        header["tokenizer"] = model.tokenizer
    safetensors_file.write_weights(path, model.tensors, {**header, **model.metadata})


def _config(path: Path, header: Mapping[str, str]) -> dict[str, object]:
    version = header.get("format_version", "")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: its format_version is {version!r}, but this version of receptance reads "
            f"'{FORMAT_VERSION}'. Load it with a newer one."
        )
    try:
        config = json.loads(header.get("config", ""))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: 'config' in the header is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: 'config' in the header is not a JSON object.")
    return config
