"""RWKV-7 as prepared for transformers itself: `Rwkv7ForCausalLM`, the layout of `RWKV/RWKV7-*-20260805`.

All official names with `rwkv7.` before them, but for the head; official shapes, nothing transposed; the first
layer has the v0, v1 and v2 that nothing reads. `config.json` has the words of flash-linear-attention, and the
group norm's epsilon is `head_dim * norm_eps` as there. So it stands in the converter that made those
repositories (github.com/aabbdev/rwkv-publisher), in the model that it puts beside the weights, and in the
branch for transformers that names these repositories as its checkpoints (huggingface/transformers#47787).
The repositories themselves were not looked at. No transformers up to 5.23 has the model.
"""

from __future__ import annotations

import re

from receptance.checkpoints.huggingface.dialect import LAYER_NORM_EPSILON, PADDED, Dialect, rows
from receptance.checkpoints.huggingface.fla import RWKV7 as FLA
from receptance.checkpoints.layout import Layout
from receptance.errors import ConfigError
from receptance.models import RWKV7Config

_LAYER = ("blocks.{}.", "rwkv7.blocks.{}.")
_NORMS = [f"{norm}.{part}" for norm in ("ln0", "ln1", "ln2", "att.ln_x") for part in ("weight", "bias")]
_VECTORS = [
    f"att.{name}" for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a")
]
_LOW_RANK = [f"att.{name}{number}" for name in "wavg" for number in "12"]
_MATRICES = [
    *(f"att.{name}.weight" for name in ("receptance", "key", "value", "output")),
    *(f"ffn.{name}.weight" for name in ("key", "value")),
]
LAYOUT = Layout(
    [
        *rows("", "rwkv7.", ("emb.weight", "ln_out.weight", "ln_out.bias")),
        *rows(*_LAYER, [*_NORMS, *_LOW_RANK, "att.r_k", *_MATRICES]),
        *rows(*_LAYER, [*_VECTORS, "ffn.x_k"], PADDED),
    ]
)


def _settings(config: RWKV7Config, dtype: str) -> dict[str, object]:
    epsilon = LAYER_NORM_EPSILON * config.head_size
    if config.group_norm_epsilon != epsilon:
        raise ConfigError(
            f"group_norm_epsilon is {config.group_norm_epsilon:g}, but for heads of {config.head_size} "
            f"channels Rwkv7ForCausalLM computes with {epsilon:g}."
        )
    return {
        "architectures": ["Rwkv7ForCausalLM"],
        **NATIVE.sizes(config),
        "num_heads": config.num_heads,
        "norm_eps": LAYER_NORM_EPSILON,
        "norm_bias": True,
        "wkv_state_dtype": "float32",
        "pad_token_id": 0,
        "dtype": dtype,
    }


def _unread(config: RWKV7Config) -> dict[str, tuple[int, ...]]:
    channel, rank = config.hidden_size, config.value_rank
    return {
        "blocks.0.att.v0": (channel,),
        "blocks.0.att.v1": (channel, rank),
        "blocks.0.att.v2": (rank, channel),
    }


NATIVE = Dialect(
    program="transformers",
    generation="7",
    format="transformers-native",
    model_type="rwkv7",
    sign=re.compile(r"^rwkv7\.blocks\.\d+\.att\."),
    layout=lambda settings: LAYOUT,
    fields=FLA.fields,
    needed={
        "norm_eps": LAYER_NORM_EPSILON,
        "norm_bias": True,
        "use_deep_embed": False,
        "embedding_layer_norm_fused": False,
    },
    derived=FLA.derived,
    settings=_settings,
    unread=_unread,
)
