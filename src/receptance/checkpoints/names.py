"""How weights are named and shaped elsewhere, as tables that can be read in both directions.

The official names, those of BlinkDL's `.pth` files, are also the names of our modules and of our own files.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cached_property

from torch import Tensor

# What trainers put before every name: DeepSpeed, torch.compile, DataParallel, Lightning.
WRAPPER_PREFIXES = ("_forward_module.", "_orig_mod.", "module.", "model.")

# Vectors that the published files store as [1, 1, channel], and we as [channel]: by generation.
_PADDED = {
    "4": re.compile(r"\.time_mix_\w+$"),
    "5": re.compile(r"\.time_mix_\w+$"),
    "6": re.compile(r"\.time_(maa_[xwkvrg]|decay)$"),
    "7": re.compile(r"\.(x_[rwkvag]|[wav]0|k_[ka])$"),
}

_LAYER = re.compile(r"(?<=blocks\.)\d+(?=\.)")


class NameTable:
    """A reversible table of tensor names; `{}` stands for the number of the layer."""

    def __init__(self, official_to_foreign: dict[str, str]) -> None:
        self.rows = official_to_foreign

    @cached_property
    def _reversed(self) -> dict[str, str]:
        return {foreign: official for official, foreign in self.rows.items()}

    def foreign(self, official: str) -> str:
        """Return the foreign name; a name that the table does not know stays as it is."""
        return _look_up(self.rows, official)

    def official(self, foreign: str) -> str:
        """Return the official name; a name that the table does not know stays as it is."""
        return _look_up(self._reversed, foreign)


def _look_up(rows: dict[str, str], name: str) -> str:
    layer = _LAYER.search(name)
    row = rows.get(_LAYER.sub("{}", name, count=1))
    if row is None:
        return name
    return row.replace("{}", layer.group()) if layer else row


# Hugging Face transformers, `RwkvForCausalLM`: other words for the same values, nothing is transposed.
TRANSFORMERS_RWKV4 = NameTable(
    {
        "emb.weight": "rwkv.embeddings.weight",
        "blocks.{}.ln0.weight": "rwkv.blocks.{}.pre_ln.weight",
        "blocks.{}.ln0.bias": "rwkv.blocks.{}.pre_ln.bias",
        "blocks.{}.ln1.weight": "rwkv.blocks.{}.ln1.weight",
        "blocks.{}.ln1.bias": "rwkv.blocks.{}.ln1.bias",
        "blocks.{}.ln2.weight": "rwkv.blocks.{}.ln2.weight",
        "blocks.{}.ln2.bias": "rwkv.blocks.{}.ln2.bias",
        "blocks.{}.att.time_decay": "rwkv.blocks.{}.attention.time_decay",
        "blocks.{}.att.time_first": "rwkv.blocks.{}.attention.time_first",
        "blocks.{}.att.time_mix_k": "rwkv.blocks.{}.attention.time_mix_key",
        "blocks.{}.att.time_mix_v": "rwkv.blocks.{}.attention.time_mix_value",
        "blocks.{}.att.time_mix_r": "rwkv.blocks.{}.attention.time_mix_receptance",
        "blocks.{}.att.key.weight": "rwkv.blocks.{}.attention.key.weight",
        "blocks.{}.att.value.weight": "rwkv.blocks.{}.attention.value.weight",
        "blocks.{}.att.receptance.weight": "rwkv.blocks.{}.attention.receptance.weight",
        "blocks.{}.att.output.weight": "rwkv.blocks.{}.attention.output.weight",
        "blocks.{}.ffn.time_mix_k": "rwkv.blocks.{}.feed_forward.time_mix_key",
        "blocks.{}.ffn.time_mix_r": "rwkv.blocks.{}.feed_forward.time_mix_receptance",
        "blocks.{}.ffn.key.weight": "rwkv.blocks.{}.feed_forward.key.weight",
        "blocks.{}.ffn.receptance.weight": "rwkv.blocks.{}.feed_forward.receptance.weight",
        "blocks.{}.ffn.value.weight": "rwkv.blocks.{}.feed_forward.value.weight",
        "ln_out.weight": "rwkv.ln_out.weight",
        "ln_out.bias": "rwkv.ln_out.bias",
        "head.weight": "head.weight",
    }
)


def wrapper_prefix(names: Collection[str]) -> str:
    """Return what a trainer put before every one of the names, such as `_forward_module.`, or nothing."""
    found = ""
    for _ in WRAPPER_PREFIXES:  # one wrapper in another, but no more than there are
        longer = (found + prefix for prefix in WRAPPER_PREFIXES)
        found = next((p for p in longer if names and all(name.startswith(p) for name in names)), found)
    return found


def published_shape(name: str, tensor: Tensor, generation: str = "4") -> Tensor:
    """Return a weight of ours in the shape that the published files give it, sharing its memory."""
    return tensor.reshape(1, 1, -1) if _PADDED[generation].search(name) else tensor


def without_padding(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Drop leading axes of size one where that gives the shape, so that [1, 1, channel] becomes [channel]."""
    extra = tensor.ndim - len(shape)
    if extra > 0 and tuple(tensor.shape) == (1,) * extra + tuple(shape):
        return tensor.reshape(shape)
    return tensor
