"""The official names and shapes, those of BlinkDL's `.pth` files: what surrounds and pads them there."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import Tensor

from receptance.models import Config, HeadsConfig

# What trainers put before every name: DeepSpeed, torch.compile, DataParallel, Lightning.
WRAPPER_PREFIXES = ("_forward_module.", "_orig_mod.", "module.", "model.")

# Vectors that the published files store as [1, 1, channel], and we as [channel]: by generation.
_PADDED = {
    "4": re.compile(r"\.time_mix_\w+$"),
    "5": re.compile(r"\.time_mix_\w+$"),
    "6": re.compile(r"\.time_(maa_[xwkvrg]|decay)$"),
    "7": re.compile(r"\.(x_[rwkvag]|[wav]0|k_[ka])$"),
}


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


def without_padding(shape: tuple[int, ...], expected: tuple[int, ...]) -> tuple[int, ...]:
    """Drop leading axes of size one where that gives the expected shape: [1, 1, channel] to [channel]."""
    extra = len(shape) - len(expected)
    return expected if extra > 0 and shape == (1,) * extra + expected else shape


def is_wide(name: str) -> bool:
    """Say whether a matrix of this name is a wide one, not one of low rank and not the embedding.

    Nearly all that a token reads are wide matrices; they are stored `[output, input]`, those of low rank
    `[input, output]`.
    """
    return name.endswith(".weight") and name != "emb.weight"


def tuned_state_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return what the tensors of a tuned initial state are called, and their shapes `[head, value, key]`.

    RWKV-4, whose memory is no matrix, has none.
    """
    if not isinstance(config, HeadsConfig):
        return {}
    shape = (config.num_heads, config.head_size, config.head_size)
    return {f"blocks.{layer}.att.time_state": shape for layer in range(config.num_layers)}
