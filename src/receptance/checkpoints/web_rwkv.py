"""Files of web-rwkv (`.st`), in both directions (github.com/cryscan/web-rwkv, `convert_safetensors.py`).

They are safetensors files with official names, except that `time_faaaa` and `time_maa` are `time_first` and
`time_mix`, and with the small matrices transposed. Values are the official ones, but all in float16, the only
numbers that the program reads: what is too large for them is refused, and what is too fine is rounded.

The program runs RWKV-4, 5.2, 6 and 7. Its converter turns RWKV-5.1 into 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from receptance.checkpoints import safetensors_file
from receptance.checkpoints.contents import Contents, Weight, weights
from receptance.checkpoints.layout import SAME, TRANSPOSED, Change, Layout, Row
from receptance.checkpoints.names import published_shape
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import ConfigError
from receptance.models import RWKV4Config, RWKV5Config, RWKV7Config

FORMAT = "web-rwkv"
SUFFIX = ".st"


def _layout(names: Mapping[str, str], transposed: Mapping[str, str]) -> Layout:
    """Return the layout in which weights have other names, or are transposed too; tuned states always are."""
    rows: tuple[tuple[Mapping[str, str], Change], ...] = (
        (names, SAME),
        ({"att.time_state": "att.time_state", **transposed}, TRANSPOSED),
    )
    return Layout(
        Row(f"blocks.{{}}.{official}", f"blocks.{{}}.{theirs}", change)
        for pairs, change in rows
        for official, theirs in pairs.items()
    )


LAYOUTS = {
    "4": _layout({}, {}),
    "5": _layout({"att.time_faaaa": "att.time_first"}, {}),
    "6": _layout(
        {
            "att.time_faaaa": "att.time_first",
            **{f"att.time_maa_{branch}": f"att.time_mix_{branch}" for branch in "xwkvrg"},
            **{f"ffn.time_maa_{branch}": f"ffn.time_mix_{branch}" for branch in "kr"},
        },
        {
            **{f"att.time_maa_w{part}": f"att.time_mix_w{part}" for part in "12"},
            **{f"att.time_decay_w{part}": f"att.time_decay_w{part}" for part in "12"},
        },
    ),
    "7": _layout({}, {f"att.{branch}{part}": f"att.{branch}{part}" for branch in "wavg" for part in "12"}),
}


def read(path: Path) -> Contents:
    """Return what a file holds, under official names, its tensors mapped from the file without being copied.

    Raises CheckpointError, naming the tensor or the byte, when the file is damaged.
    """
    tensors, metadata = safetensors_file.read(path)
    layout = LAYOUTS[_generation(tensors)]
    return Contents(
        path=path,
        format=FORMAT,
        weights=layout.to_official(path, weights(tensors)),
        files=(path,),
        metadata={key: value for key, value in metadata.items() if key != "format"},
        name_in_file=layout.foreign_name,
    )


def recognises(contents: Contents) -> bool:
    """Say whether the tensors of a safetensors file are as web-rwkv has them, and not as official files do.

    Where they could be either (RWKV-4, tuned states and square matrices), the suffix says.
    """
    shapes = {name: weight.shape for name, weight in contents.weights.items()}
    if any(name.endswith(".lora.0") for name in shapes):  # an adapter
        return True
    first = shapes.get("blocks.0.att.time_first", ())
    embedding, down = shapes.get("emb.weight", ()), shapes.get("blocks.0.att.w1", ())
    if "blocks.0.att.time_faaaa" in shapes or len(first) == 2:  # the same weight under two names
        return len(first) == 2
    if len(embedding) == len(down) == 2 and down[0] != down[1]:
        return down[1] == embedding[1]  # [rank, channel] and not [channel, rank]
    return contents.path.suffix == SUFFIX


def write(path: Path, model: StoredModel) -> None:
    """Write a file that web-rwkv loads, atomically; each weight is read when its turn comes.

    Raises ConfigError when the program has no such model, or float16 is too narrow for a value.
    """
    _require_runnable(path, model)
    generation = model.config.generation
    halves = {
        name: _half(path, name, weight.map(partial(published_shape, name, generation=generation)))
        for name, weight in model.tensors.items()
    }
    safetensors_file.write_weights(path, LAYOUTS[generation].to_foreign(halves), {"format": "pt"})


def _generation(tensors: Mapping[str, Tensor]) -> str:
    """Return the key in LAYOUTS of what a file holds: that of RWKV-4 where nothing has another name."""
    if "blocks.0.att.r_k" in tensors:
        return "7"
    if "blocks.0.att.time_mix_x" in tensors:
        return "6"
    first = tensors.get("blocks.0.att.time_first")
    return "5" if first is not None and first.ndim == 2 else "4"


def _require_runnable(path: Path, model: StoredModel) -> None:
    config = model.config
    problem = None
    if isinstance(config, RWKV4Config) and config.attention_size != config.hidden_size:
        problem = f"attention_size {config.attention_size} beside hidden_size {config.hidden_size}"
    elif isinstance(config, RWKV5Config) and config.version != "5.2":
        problem = f"RWKV-{config.version}; of RWKV-5 it runs 5.2"
    elif isinstance(config, RWKV7Config) and config.num_layers == 1:
        problem = "RWKV-7 of one layer"
    if problem:
        raise ConfigError(f"{path}: web-rwkv knows no {problem}.")


def _half(path: Path, name: str, weight: Weight) -> Weight:
    def read() -> Tensor:
        tensor = weight.read()
        half = tensor.to(torch.float16)
        if half.isinf().any():
            largest = max(abs(float(bound)) for bound in torch.aminmax(tensor))
            raise ConfigError(
                f"{path}: {name!r} holds values up to {largest:.4g}, but float16, which web-rwkv reads, ends "
                f"at {torch.finfo(torch.float16).max:.0f}."
            )
        return half

    return Weight(weight.shape, torch.float16, read)
