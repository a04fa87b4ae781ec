"""Folders of Hugging Face transformers, in both directions and in the dialects of several programs.

`config.json` says what kind of model it is, the weights lie in one file or in parts. Which program's words
they are in is told by the type of the model and by the names of the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch

from receptance import atomic
from receptance.checkpoints import json_file
from receptance.checkpoints.contents import Contents, Weight, weights
from receptance.checkpoints.huggingface import fla, native, rwkv, sharded
from receptance.checkpoints.huggingface.dialect import Dialect, Settings
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import CheckpointError, ConfigError

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"

DIALECTS = (
    rwkv.RWKV4,
    rwkv.RWKV5,
    rwkv.RWKV6,
    fla.RWKV6,
    fla.RWKV7,
    fla.RWKV7_VERSION_1,
    native.NATIVE,
)
# What is written by default: that which an installed program runs today.
_WRITTEN = (rwkv.RWKV4, fla.RWKV6, fla.RWKV7)


def is_spoken(names: Collection[str]) -> bool:
    """Say whether tensors of these names come out of a folder in one of the dialects."""
    return any(dialect.is_spoken(names) for dialect in DIALECTS)


def read(folder: Path) -> Contents:
    """Return what a folder of transformers holds, under official names and without copying tensors.

    Raises CheckpointError, naming the file and the tensor, when something is missing, damaged, or no RWKV
    whose function receptance computes.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: there is no {CONFIG_FILE}, which transformers writes beside the weights."
        )
    settings = json_file.read(path)
    dialects = _dialects_of(path, settings)
    tensors, files = sharded.read(folder)
    dialect = next((dialect for dialect in dialects if dialect.is_spoken(tensors)), None)
    if dialect is None:
        programs = " or ".join(dict.fromkeys(dialect.program for dialect in dialects))
        some = ", ".join(repr(name)[:100] for name in sorted(tensors)[-3:]) or "none at all"
        raise CheckpointError(
            f"{path}: model_type is {dialects[0].model_type!r}, but the weights do not have the names of "
            f"{programs}; they are {some} …"
        )
    layout = dialect.layout(settings)
    official = layout.to_official(folder, weights(tensors))
    if settings.get("tie_word_embeddings") is True and "emb.weight" in official:
        # Ours are two parameters, which training may take apart.
        official.setdefault("head.weight", official["emb.weight"].map(torch.clone))
    context_length = settings.get("context_length")
    return Contents(
        path=folder,
        format=dialect.format,
        weights=official,
        files=files,
        config=dialect.understood(path, settings),
        tokenizer=TOKENIZER_FILE if (folder / TOKENIZER_FILE).is_file() else None,
        metadata={} if context_length is None else {"context_length": str(context_length)},
        name_in_file=layout.foreign_name,
    )


def write(folder: Path, model: StoredModel, max_part_bytes: int = sharded.MAX_PART_BYTES) -> None:
    """Write a folder for a program that can be installed: transformers, or flash-linear-attention.

    `AutoModelForCausalLM.from_pretrained` loads it; for RWKV-6 and 7 `import fla` goes before. The folder is
    written whole or not at all. Raises ConfigError when there is something in it, or the program could not
    run the model.
    """
    _write(folder, model, _WRITTEN, max_part_bytes)


def write_native(folder: Path, model: StoredModel, max_part_bytes: int = sharded.MAX_PART_BYTES) -> None:
    """Write a folder in the layout that is prepared for transformers itself; all else is as in `write`."""
    _write(folder, model, (native.NATIVE,), max_part_bytes)


def _write(folder: Path, model: StoredModel, dialects: tuple[Dialect, ...], max_part_bytes: int) -> None:
    config = model.config
    dialect = next((dialect for dialect in dialects if dialect.generation == config.generation), None)
    if dialect is None or dialect.settings is None:
        known = ", ".join(f"RWKV-{dialect.generation} ({dialect.program})" for dialect in dialects)
        raise ConfigError(
            f"{folder}: such folders are for {known}; nothing runs RWKV-{config.generation} from one. Write "
            "a .pth file, which the package rwkv runs."
        )
    dtype = model.weights["head.weight"].dtype
    context_length = model.metadata.get("context_length", "")
    settings: Settings = {
        "model_type": dialect.model_type,
        **dialect.settings(config, str(dtype).removeprefix("torch.")),
        **({"context_length": int(context_length)} if context_length.isdecimal() else {}),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "use_cache": True,
    }
    unread = {name: _zeros(shape, dtype) for name, shape in dialect.unread(config).items()}
    named = dialect.layout(settings).to_foreign({**model.weights, **unread})
    with atomic.write_folder(folder) as temporary:
        sharded.write(temporary, named, max_part_bytes)
        json_file.write(temporary / CONFIG_FILE, settings)
        json_file.write(temporary / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 0})


def _dialects_of(path: Path, settings: Settings) -> list[Dialect]:
    """Return those dialects that a model of this type can be in; there is at least one."""
    model_type = settings.get("model_type")
    found = [dialect for dialect in DIALECTS if dialect.model_type == model_type]
    if found:
        return found
    known = ", ".join(sorted({repr(dialect.model_type) for dialect in DIALECTS}))
    shown = repr(model_type)[:100]
    relative = (
        " It names a model of another kind with RWKV in the place of attention (RWKV6-Qwen2, ARWKV, hybrids)."
        if isinstance(model_type, str) and re.search("rwkv", model_type)
        else ""
    )
    raise CheckpointError(f"{path}: model_type is {shown}, but receptance reads {known}.{relative}")


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Weight:
    return Weight(shape, dtype, lambda: torch.zeros(shape, dtype=dtype))
