"""The names of transformers' `rwkv` (RWKV-4), and of the programs for RWKV-5 and 6 that took them over.

RWKV-4 is `RwkvForCausalLM` of transformers. RWKV-5 and 6 are `RWKV/rwkv-5-world-*` and `RWKV/rwkv-6-world-*`,
which bring their program along (github.com/BBuf/RWKV-World-HF-Tokenizer, where both were made). Values and
shapes are those of official files. RWKV-6 keeps the official names of its vectors, 4 and 5 spell out what a
mix is for. In RWKV-5 and 6 the output of each head is divided by `head_size_divisor` before its norm, or the
epsilon multiplied by the square of it, which is the same.

A folder that was saved after the model ran in eval mode holds divided weights (`rescale_every`), and nothing
in it says so: let transformers save before it runs, or after `model.train()` and one forward pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from receptance.checkpoints.huggingface.dialect import (
    LAYER_NORM_EPSILON,
    PADDED,
    Dialect,
    Settings,
    rows,
    whole_number,
)
from receptance.checkpoints.layout import Layout, Row
from receptance.errors import ConfigError
from receptance.models import RWKV4Config

DEFAULT_CONTEXT_LENGTH = 1024  # of the published models; transformers refuses longer texts on a GPU

_ATTENTION = ("blocks.{}.att.", "rwkv.blocks.{}.attention.")
_FEED_FORWARD = ("blocks.{}.ffn.", "rwkv.blocks.{}.feed_forward.")
_NORMS = {"ln0": "pre_ln", "ln1": "ln1", "ln2": "ln2", "att.ln_x": "attention.ln_x"}
_PROJECTIONS = ("key", "value", "receptance", "gate", "output")


def _layout(vectors: Iterable[Row]) -> Layout:
    """Return the table of a generation: what all have, and its own vectors."""
    return Layout(
        [
            *rows("", "rwkv.", {"emb.weight": "embeddings.weight"}),
            *rows("ln_out.", "rwkv.ln_out.", ("weight", "bias")),
            *(
                row
                for ours, theirs in _NORMS.items()
                for row in rows(f"blocks.{{}}.{ours}.", f"rwkv.blocks.{{}}.{theirs}.", ("weight", "bias"))
            ),
            *rows(*_ATTENTION, [f"{name}.weight" for name in _PROJECTIONS]),
            *rows(*_FEED_FORWARD, [f"{name}.weight" for name in ("key", "receptance", "value")]),
            *vectors,
        ]
    )


def _spelled(*words: str) -> dict[str, str]:
    return {f"time_mix_{word[0]}": f"time_mix_{word}" for word in words}


SPELLED = _layout(
    [
        *rows(*_ATTENTION, _spelled("key", "value", "receptance", "gate"), PADDED),
        *rows(*_ATTENTION, ("time_decay", "time_first", "time_faaaa")),
        *rows(*_FEED_FORWARD, _spelled("key", "receptance"), PADDED),
    ]
)
OFFICIAL = _layout(
    [
        *rows(*_ATTENTION, [f"time_maa_{mix}" for mix in ("x", "w", "k", "v", "r", "g", "w1", "w2")]),
        *rows(*_ATTENTION, ("time_decay", "time_decay_w1", "time_decay_w2", "time_faaaa")),
        *rows(*_FEED_FORWARD, ("time_maa_k", "time_maa_r")),
    ]
)

_SIGN = re.compile(r"^rwkv\.(embeddings|blocks\.\d+|ln_out)\.")
_FIELDS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "feed_forward_size",
}


def _settings(config: RWKV4Config, dtype: str) -> dict[str, object]:
    if config.attention_size != config.hidden_size:
        raise ConfigError(
            f"attention_size is {config.attention_size} and hidden_size {config.hidden_size}, but "
            "transformers runs only models where they are equal."
        )
    if config.num_layers == 1:
        raise ConfigError(
            "num_layers is 1, but transformers builds only models with more: it divides by zero."
        )
    return {
        "architectures": ["RwkvForCausalLM"],
        **RWKV4.sizes(config),
        "context_length": DEFAULT_CONTEXT_LENGTH,
        # Halving the stream keeps float16 from overflowing; elsewhere it only costs accuracy.
        "rescale_every": 6 if dtype == "float16" else 0,
        "torch_dtype": dtype,
    }


def _epsilon(settings: Settings) -> dict[str, object]:
    return {"group_norm_epsilon": LAYER_NORM_EPSILON * whole_number(settings, "head_size_divisor", 8) ** 2}


RWKV4 = Dialect(
    program="transformers",
    generation="4",
    model_type="rwkv",
    sign=_SIGN,
    layout=lambda settings: SPELLED,
    fields={
        **_FIELDS,
        "attention_hidden_size": "attention_size",
        "layer_norm_epsilon": "layer_norm_epsilon",
    },
    settings=_settings,
)
RWKV5 = Dialect(
    program="the program of RWKV/rwkv-5-world",
    generation="5",
    model_type="rwkv5",
    sign=_SIGN,
    layout=lambda settings: SPELLED,
    fields={**_FIELDS, "head_size": "head_size"},
    needed={"layer_norm_epsilon": LAYER_NORM_EPSILON},
    derived=_epsilon,
)
RWKV6 = Dialect(
    program="the program of RWKV/rwkv-6-world",
    generation="6",
    model_type="rwkv6",
    sign=_SIGN,
    layout=lambda settings: OFFICIAL,
    fields={**_FIELDS, "head_size": "head_size"},
    needed={"layer_norm_epsilon": LAYER_NORM_EPSILON},
    derived=_epsilon,
)
