"""RWKV-6 and 7 as flash-linear-attention has them: `RWKV6ForCausalLM` and `RWKV7ForCausalLM`.

As in fla 0.6.0 (github.com/fla-org/flash-linear-attention), with which rwkv-fla and rwkv7-hf agree. Low-rank
matrices are transposed, and the vectors that official files number 0 are their biases. The first layer of
RWKV-7 has no `v_lora`, which nothing would read. Version 1 of RWKV-7 has its six mixes as one matrix, `x_x`.
RWKV-6 orders what depends on the data r, w, k, v, g; official files do w, k, v, r, g.

One `norm_eps` serves all norms. The group norm's epsilon is `head_dim * norm_eps` in RWKV-7 and `norm_eps` in
RWKV-6; the official one is 64e-5, beside 1e-5 elsewhere. For RWKV-7 that fits heads of 64 channels. RWKV-6 is
written with the receptance divided by 8: the output y of a head is linear in it, and normalising y / 8 with
1e-5 is normalising y with 64e-5. `receptance_divisor` in config.json tells us; fla does not look at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from receptance.checkpoints.huggingface.dialect import (
    LAYER_NORM_EPSILON,
    PADDED,
    Dialect,
    Settings,
    rows,
    whole_number,
)
from receptance.checkpoints.layout import STACKED, TRANSPOSED, Change, Layout, Row, each, valued
from receptance.errors import ConfigError
from receptance.models import RWKV6Config, RWKV7Config

_ATTENTION = ("blocks.{}.att.", "model.layers.{}.attn.")
_FEED_FORWARD = ("blocks.{}.ffn.", "model.layers.{}.ffn.")
_NORMS = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att.ln_x": "attn.g_norm"}
_PROJECTIONS = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "gate": "g_proj"}


def _layout(own: Iterable[Row]) -> Layout:
    """Return the table of a generation: what both have, and its own rows."""
    return Layout(
        [
            *rows("", "", {"emb.weight": "model.embeddings.weight", "head.weight": "lm_head.weight"}),
            *rows("ln_out.", "model.norm.", ("weight", "bias")),
            *(
                row
                for ours, theirs in _NORMS.items()
                for row in rows(f"blocks.{{}}.{ours}.", f"model.layers.{{}}.{theirs}.", ("weight", "bias"))
            ),
            *rows(*_ATTENTION, {"output.weight": "o_proj.weight"}),
            *rows(*_FEED_FORWARD, ("value.weight",)),
            *own,
        ]
    )


def _rwkv7(mixes: Iterable[Row]) -> Layout:
    low_rank = {f"{name}1": f"{name}_lora.lora.0.weight" for name in "wavg"}
    low_rank |= {f"{name}2": f"{name}_lora.lora.2.weight" for name in "wavg"}
    return _layout(
        [
            *mixes,
            *rows(*_ATTENTION, low_rank, TRANSPOSED),
            *rows(*_ATTENTION, {f"{name}0": f"{name}_lora.lora.2.bias" for name in "wav"}),
            *rows(*_ATTENTION, ("k_k", "k_a", "r_k")),
            *rows(
                *_ATTENTION, {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in _PROJECTIONS.items()}
            ),
            *rows(*_FEED_FORWARD, ("x_k", "key.weight")),
        ]
    )


_MIXES = [f"x_{letter}" for letter in "rwkvag"]
RWKV7_LAYOUT = _rwkv7(rows(*_ATTENTION, _MIXES, PADDED))
RWKV7_LAYOUT_1 = _rwkv7(
    [Row(tuple(f"blocks.{{}}.att.{mix}" for mix in _MIXES), "model.layers.{}.attn.x_x", STACKED)]
)

# Where r, w, k, v, g stand among w, k, v, r, g, and the other way round.
_TO_THEIRS, _TO_OURS = [3, 0, 1, 2, 4], [1, 2, 3, 0, 4]


def _ordered(parts: Tensor, order: list[int]) -> Tensor:
    # Indexing on the meta device would make torch import its compiler, which takes a second.
    return parts if parts.is_meta else parts[order]


def _first_ordered(matrix: Tensor, order: list[int]) -> Tensor:
    """Return time_maa_w1, `[channel, 5 * rank]`, with its five parts in another order."""
    return _ordered(matrix.reshape(len(matrix), 5, -1).transpose(0, 1), order).transpose(0, 1).flatten(1)


_FIRST = each(lambda w1: _first_ordered(w1, _TO_THEIRS), lambda w1: _first_ordered(w1, _TO_OURS)).then(
    TRANSPOSED
)
_SECOND = each(  # time_maa_w2, [5, rank, channel]
    lambda w2: _ordered(w2, _TO_THEIRS).flatten(0, 1),
    lambda w2: _ordered(w2.reshape(5, -1, w2.shape[1]), _TO_OURS),
).then(TRANSPOSED)


def _divided(divisor: int) -> Change:
    """Return the change of a weight to a part of it, which loses nothing: the divisor is a power of two."""

    def divide(tensor: Tensor) -> Tensor:
        part = tensor / divisor
        if not torch.equal(part * divisor, tensor):
            raise ConfigError(
                f"a value of the receptance is too small to be divided by {divisor} in {tensor.dtype}, as "
                "flash-linear-attention needs it. Convert to float32 or bfloat16."
            )
        return part

    return valued(divide, lambda tensor: tensor * divisor)


@lru_cache(maxsize=8)
def rwkv6_layout(receptance_divisor: int) -> Layout:
    """Return the table of RWKV-6 where the receptance is divided by a power of two."""
    decay = {"time_decay_w1": "lora.0.weight", "time_decay_w2": "lora.2.weight"}
    mixes = tuple(f"blocks.{{}}.att.time_maa_{letter}" for letter in "rwkvg")
    return _layout(
        [
            Row(mixes, "model.layers.{}.attn.x_bias", STACKED),
            *rows(*_ATTENTION, {"time_maa_x": "x_proj.0.mu", "time_faaaa": "bonus"}),
            *rows(*_ATTENTION, {"time_maa_w1": "x_proj.0.linear.weight"}, _FIRST),
            *rows(*_ATTENTION, {"time_maa_w2": "x_proj.2.weight"}, _SECOND),
            *rows(*_ATTENTION, {"time_decay": "w_proj.linear.lora.2.bias"}),
            *rows("blocks.{}.att.", "model.layers.{}.attn.w_proj.linear.", decay, TRANSPOSED),
            *rows(
                *_ATTENTION,
                {f"{a}.weight": f"{b}.linear.weight" for a, b in _PROJECTIONS.items() if a != "receptance"},
            ),
            *rows(*_ATTENTION, {"receptance.weight": "r_proj.linear.weight"}, _divided(receptance_divisor)),
            *rows(*_FEED_FORWARD, {"time_maa_k": "key.mu", "key.weight": "key.linear.weight"}),
            *rows(
                *_FEED_FORWARD,
                {"time_maa_r": "receptance.mu", "receptance.weight": "receptance.linear.weight"},
            ),
        ]
    )


_FIELDS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "feed_forward_size",
}
_NEEDED: Settings = {
    "norm_eps": LAYER_NORM_EPSILON,
    "norm_bias": True,
    "norm_first": True,
    "hidden_act": "sqrelu",
    "attn": [],  # layers of ordinary attention, in a hybrid
}
_WRITTEN: Settings = {
    **{key: value for key, value in _NEEDED.items() if key != "attn"},
    "fuse_norm": False,  # fla's own norm of the keys has 1e-6 where the official one has 1e-12
    "attn_mode": "chunk",
}


def _epsilon7(settings: Settings) -> dict[str, object]:
    heads = whole_number(settings, "num_heads", 0)
    by_number = whole_number(settings, "hidden_size", 0) // heads if heads else 64
    return {"group_norm_epsilon": LAYER_NORM_EPSILON * whole_number(settings, "head_dim", by_number)}


def _settings7(config: RWKV7Config, dtype: str) -> dict[str, object]:
    epsilon = LAYER_NORM_EPSILON * config.head_size
    if config.group_norm_epsilon != epsilon:
        raise ConfigError(
            f"group_norm_epsilon is {config.group_norm_epsilon:g}, but for heads of {config.head_size} "
            f"channels flash-linear-attention computes with {epsilon:g}."
        )
    if config.num_layers == 1:
        raise ConfigError(
            "num_layers is 1, but flash-linear-attention builds only models with more: it divides by zero."
        )
    return {
        "architectures": ["RWKV7ForCausalLM"],
        **RWKV7.sizes(config),
        "num_heads": config.num_heads,
        "value_dim": [config.hidden_size] * config.num_layers,
        **_WRITTEN,
        "torch_dtype": dtype,
    }


def _in_other_words6(settings: Settings) -> dict[str, object]:
    """Return the size of a head, which config.json gives by their number, and the epsilon of their norm."""
    divisor = whole_number(settings, "receptance_divisor", 1)
    said: dict[str, object] = {"group_norm_epsilon": LAYER_NORM_EPSILON * divisor**2}
    heads = settings.get("num_heads")
    if isinstance(heads, int) and not isinstance(heads, bool) and heads > 0:
        said["head_size"] = whole_number(settings, "hidden_size", 0) // heads
    elif heads is not None:
        said["head_size"] = heads  # to be refused
    return said


def _settings6(config: RWKV6Config, dtype: str) -> dict[str, object]:
    divisors = (1 << power for power in range(8))
    divisor = next((d for d in divisors if LAYER_NORM_EPSILON * d**2 == config.group_norm_epsilon), None)
    if divisor is None:
        raise ConfigError(
            f"group_norm_epsilon is {config.group_norm_epsilon:g}, but flash-linear-attention can be brought "
            "to compute RWKV-6 only with 1e-5 times a power of four, such as 64e-5."
        )
    return {
        "architectures": ["RWKV6ForCausalLM"],
        **RWKV6.sizes(config),
        "num_heads": config.num_heads,
        "expand_k": 1.0,
        "expand_v": 1.0,
        "receptance_divisor": divisor,
        **_WRITTEN,
        "torch_dtype": dtype,
    }


RWKV7 = Dialect(
    program="flash-linear-attention",
    generation="7",
    model_type="rwkv7",
    sign=re.compile(r"^model\.layers\.\d+\.attn\.x_r$"),
    layout=lambda settings: RWKV7_LAYOUT,
    fields={
        **_FIELDS,
        "head_dim": "head_size",
        "decay_low_rank_dim": "decay_rank",
        "a_low_rank_dim": "in_context_rank",
        "v_low_rank_dim": "value_rank",
        "gate_low_rank_dim": "gate_rank",
    },
    needed=_NEEDED,
    derived=_epsilon7,
    settings=_settings7,
)
RWKV7_VERSION_1 = replace(
    RWKV7,
    sign=re.compile(r"^model\.layers\.\d+\.attn\.x_x$"),
    layout=lambda settings: RWKV7_LAYOUT_1,
    settings=None,
)
RWKV6 = Dialect(
    program="flash-linear-attention",
    generation="6",
    model_type="rwkv6",
    sign=re.compile(r"^model\.layers\.\d+\.attn\.x_bias$"),
    layout=lambda settings: rwkv6_layout(whole_number(settings, "receptance_divisor", 1)),
    fields={**_FIELDS, "proj_low_rank_dim": "mix_rank", "gate_low_rank_dim": "decay_rank"},
    needed={**_NEEDED, "expand_k": 1.0, "expand_v": 1.0},
    derived=_in_other_words6,
    settings=_settings6,
)
