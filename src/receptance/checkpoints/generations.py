"""Which RWKV a set of tensors is, told by their names, and how large, told by their shapes.

A further generation is one more entry in `GENERATIONS`. What is known but cannot be built is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from receptance.checkpoints.contents import Contents
from receptance.errors import CheckpointError
from receptance.models import RWKV4, AnyModel, Config, RWKV4Config

# Published models have at most 61 layers; a file that claims more than this is not a model.
MAX_LAYERS = 1000


@dataclass(frozen=True)
class Generation:
    """A generation that can be built."""

    model: type[AnyModel]
    config: type[Config]
    sizes: Callable[[Contents], dict[str, int]]  # fields of the config, read from the shapes


@dataclass(frozen=True)
class Sign:
    """Names that give a kind of model away: each of the patterns is found in some name."""

    title: str
    patterns: tuple[str, ...]
    generation: str | None = None  # the key in GENERATIONS, where it can be built
    advice: str = "This version of receptance reads RWKV-4 only."


# The first one whose patterns are all found says what the tensors are.
SIGNS = (
    Sign(
        "a LoRA adapter, not a whole model",
        (r"\.lora_[AB]\b",),
        advice="Merge it into the model it was trained on.",
    ),
    Sign("RWKV-8 with ROSA", (r"(^|[._])rosa\d*\.",)),
    Sign('RWKV-8 "Heron"', (r"\.ffn\.enn\.",)),
    Sign("RWKV-7b (DeepEmbed attention)", (r"\.[rk]_k$", r"\.qkv\.")),
    Sign("RWKV-7a (DeepEmbed)", (r"\.[rk]_k$", r"\.s_emb\b")),
    Sign("DeepEmbed research", (r"\bs_emb\b",)),
    Sign('RWKV-7 "Goose"', (r"\.[rk]_k$",)),
    Sign("RWKV-6b or 6c research", (r"\.time_maa_rkvw_w1$",)),
    Sign("RWKV-6a research", (r"\.time_maa_\w+$", r"\.gate_w1$")),
    Sign('RWKV-6 "Finch"', (r"\.time_maa_\w+$",)),
    Sign('RWKV-5.2 "Eagle"', (r"\.gate\.weight$", r"\.time_faaaa$")),
    Sign("RWKV-5.1", (r"\.gate\.weight$", r"\.ln_x\.weight$")),
    Sign("RWKV-5.0", (r"\.ln_x\.weight$",)),
    Sign("a tuned initial state, not a model", (r"\.time_state$",), advice="Load the model it belongs to."),
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
    names = "\n".join(contents.tensors)
    for sign in SIGNS:
        if all(re.search(pattern, names, re.MULTILINE) for pattern in sign.patterns):
            break
    else:
        some = ", ".join(repr(name) for name in list(contents.tensors)[:3]) or "none at all"
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
    matches = (re.match(r"blocks\.(\d{1,9})\.", name) for name in contents.tensors)
    layers = {int(match.group(1)) for match in matches if match}
    count = max(layers, default=-1) + 1
    if count > MAX_LAYERS:
        raise CheckpointError(
            f"{contents.path}: a tensor is of layer {count - 1}, but no model has {MAX_LAYERS} layers."
        )
    return count


def _rwkv4_sizes(contents: Contents) -> dict[str, int]:
    vocabulary, hidden = contents.shape("emb.weight", 2)
    attention, _ = contents.shape("blocks.0.att.key.weight", 2)
    feed_forward, _ = contents.shape("blocks.0.ffn.key.weight", 2)
    return {
        "vocabulary_size": vocabulary,
        "num_layers": _num_layers(contents),
        "hidden_size": hidden,
        "attention_size": attention,
        "feed_forward_size": feed_forward,
    }


GENERATIONS = {"4": Generation(model=RWKV4, config=RWKV4Config, sizes=_rwkv4_sizes)}
