"""Which RWKV a set of tensors is, told by their names, and how large, told by their shapes.

A further generation is one more entry in `GENERATIONS`. What is known but cannot be built is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from receptance.checkpoints.contents import Contents
from receptance.errors import CheckpointError
from receptance.models import (
    RWKV4,
    RWKV5,
    RWKV6,
    RWKV7,
    AnyModel,
    Config,
    RWKV4Config,
    RWKV5Config,
    RWKV6Config,
    RWKV7Config,
)

# Published models have at most 61 layers; a file that claims more than this is not a model.
MAX_LAYERS = 1000


@dataclass(frozen=True)
class Generation:
    """A generation that can be built."""

    model: type[AnyModel]
    config: type[Config]
    # Fields of the config, read from the shapes. Any: each is what its field says.
    sizes: Callable[[Contents], dict[str, Any]]
    unused: frozenset[str] = frozenset()  # tensors that a file may have and no model needs


@dataclass(frozen=True)
class Sign:
    """Names that give a kind of model away: each of the patterns is found in some name."""

    title: str
    patterns: tuple[str, ...]
    generation: str | None = None  # the key in GENERATIONS, where it can be built
    advice: str = "It is research; receptance reads RWKV-4, 5, 6 and 7."


_CONVERT = "Give the folder that it is from, with its config.json, or the official .pth file."

# The first one whose patterns are all found says what the tensors are.
SIGNS = (
    Sign(
        "a LoRA adapter or the like, not a whole model",
        (r"\.((init_)?lora_[AB]|disha|bone)$|\.lora_[AB]\.|\.lora\.[01]$",),
        advice="Give the model that it was trained on, and this file as its lora (--lora).",
    ),
    Sign("RWKV-8 with ROSA", (r"(^|[._])rosa\d*\.",)),
    Sign('RWKV-8 "Heron"', (r"\.ffn\.enn\.",)),
    Sign("RWKV-7b (DeepEmbed attention)", (r"\.[rk]_k$", r"\.qkv\.")),
    Sign("RWKV-7a (DeepEmbed)", (r"\.[rk]_k$", r"\.s_emb\b")),
    Sign("DeepEmbed research", (r"\bs_emb\b",)),
    Sign(
        "RWKV in the place of another model's attention (RWKV6-Qwen2, ARWKV)",
        (r"\.mlp\.gate_proj\.", r"\.(time_(maa|decay|faaaa)\w*|[rk]_k|[wav]0)$"),
    ),
    Sign("RWKV-7 in the names of another program", (r"\.[rk]_k$", r"\.layers\."), advice=_CONVERT),
    Sign('RWKV-7 "Goose"', (r"\.[rk]_k$",), generation="7"),
    Sign("RWKV-6b or 6c research", (r"\.time_maa_rkvw_w1$",)),
    Sign("RWKV-6a research", (r"\.time_maa_\w+$", r"\.gate_w1$")),
    Sign('RWKV-6 "Finch"', (r"\.time_maa_\w+$",), generation="6"),
    Sign('RWKV-5.2 "Eagle"', (r"\.gate\.weight$", r"\.time_faaaa$"), generation="5"),
    Sign("RWKV-5.1", (r"\.gate\.weight$", r"\.ln_x\.weight$"), generation="5"),
    Sign("RWKV-5.0", (r"\.ln_x\.weight$",), generation="5"),
    Sign(
        "a tuned initial state, not a model",
        (r"\.time_state$",),
        advice="Give the model that it belongs to, and this file as its state (--state).",
    ),
    Sign("RWKV-4 with head-QK (research)", (r"\bhead_q\b|\bhead_k\b|\bcopy_mask$",)),
    Sign("RWKV-4 with a feed-forward first layer (research)", (r"\.ffnPre\.",)),
    Sign("RWKV-4a (tiny attention, research)", (r"\btiny_\w+",)),
    Sign("RWKV-4b (extra attention, research)", (r"\.att\.(qq|kk|vv|oo)\.|\.time_mix_(qq|kk|vv)$",)),
    Sign("RWKV with position embeddings (research)", (r"\bpos_emb(_[xy])?\b",)),
    Sign('RWKV-4 "Dove"', (r"\.att\.time_decay$",), generation="4"),
)


def recognise(contents: Contents) -> Generation:
    """Return the generation that the tensors are of.

    Raises CheckpointError, saying what they are, when it is none that can be built, or not the one that the
    file claims to be.
    """
    names = "\n".join(contents.weights)
    for sign in SIGNS:
        if all(re.search(pattern, names, re.MULTILINE) for pattern in sign.patterns):
            break
    else:
        some = ", ".join(repr(name) for name in list(contents.weights)[:3]) or "none at all"
        raise CheckpointError(f"{contents.path}: this is no RWKV model; its tensors are {some} …")
    claimed = contents.config.get("generation", sign.generation)
    if sign.generation is None:
        raise CheckpointError(f"{contents.path}: this is {sign.title}. {sign.advice}")
    if claimed != sign.generation:
        raise CheckpointError(
            f"{contents.path}: the header says generation {claimed!r}, but the tensors are {sign.title}."
        )
    return GENERATIONS[sign.generation]


def _num_layers(contents: Contents) -> int:
    matches = (re.match(r"blocks\.(\d{1,9})\.", name) for name in contents.weights)
    layers = {int(match.group(1)) for match in matches if match}
    count = max(layers, default=-1) + 1
    if count > MAX_LAYERS:
        raise CheckpointError(
            f"{contents.path}: a tensor is of layer {count - 1}, but no model has {MAX_LAYERS} layers."
        )
    return count


def _common_sizes(contents: Contents) -> dict[str, Any]:
    vocabulary, hidden = contents.shape("emb.weight", 2)
    feed_forward, _ = contents.shape("blocks.0.ffn.key.weight", 2)
    return {
        "vocabulary_size": vocabulary,
        "num_layers": _num_layers(contents),
        "hidden_size": hidden,
        "feed_forward_size": feed_forward,
    }


def _rwkv4_sizes(contents: Contents) -> dict[str, Any]:
    attention, _ = contents.shape("blocks.0.att.key.weight", 2)
    return _common_sizes(contents) | {"attention_size": attention}


def _rwkv5_sizes(contents: Contents) -> dict[str, Any]:
    _, hidden = contents.shape("emb.weight", 2)
    if "blocks.0.att.time_faaaa" in contents.weights:
        version, (_, size) = "5.2", contents.shape("blocks.0.att.time_faaaa", 2)
    else:
        version = "5.1" if "blocks.0.att.gate.weight" in contents.weights else "5.0"
        size = hidden // max(1, contents.count("blocks.0.att.time_decay"))
    return _common_sizes(contents) | {"head_size": size, "version": version}


def _rwkv6_sizes(contents: Contents) -> dict[str, Any]:
    _, size = contents.shape("blocks.0.att.time_faaaa", 2)
    _, mix_rank, _ = contents.shape("blocks.0.att.time_maa_w2", 3)
    _, decay_rank = contents.shape("blocks.0.att.time_decay_w1", 2)
    return _common_sizes(contents) | {"head_size": size, "mix_rank": mix_rank, "decay_rank": decay_rank}


def _rwkv7_sizes(contents: Contents) -> dict[str, Any]:
    _, size = contents.shape("blocks.0.att.r_k", 2)
    ranks = {}
    for field, name in (("decay_rank", "w1"), ("in_context_rank", "a1"), ("gate_rank", "g1")):
        _, ranks[field] = contents.shape(f"blocks.0.att.{name}", 2)
    if "blocks.1.att.v1" in contents.weights:  # no layer but the first does without
        _, ranks["value_rank"] = contents.shape("blocks.1.att.v1", 2)
    return _common_sizes(contents) | {"head_size": size} | ranks


# The trainer gives the first layer these too, but there is no earlier layer whose values it could mix in.
_UNUSED_IN_RWKV7 = frozenset(f"blocks.0.att.{name}" for name in ("v0", "v1", "v2"))

GENERATIONS = {
    "4": Generation(model=RWKV4, config=RWKV4Config, sizes=_rwkv4_sizes),
    "5": Generation(model=RWKV5, config=RWKV5Config, sizes=_rwkv5_sizes),
    "6": Generation(model=RWKV6, config=RWKV6Config, sizes=_rwkv6_sizes),
    "7": Generation(model=RWKV7, config=RWKV7Config, sizes=_rwkv7_sizes, unused=_UNUSED_IN_RWKV7),
}
