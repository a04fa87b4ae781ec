"""What llama.cpp calls the weights and the sizes of RWKV-6 and 7, and how it lays them out.

Names are those of its `src/llama-arch.cpp`, shapes those of `src/models/rwkv6.cpp` and `rwkv7.cpp`.
"""

from __future__ import annotations

from collections.abc import Iterator

from receptance.checkpoints.layout import SAME, STACKED, TRANSPOSED, Change, Layout, Row, reshaped

ARCHITECTURES = {"6": "rwkv6", "7": "rwkv7"}  # by generation

# Keys of the metadata, after the name of the architecture, and the fields of our config.
_COMMON_FIELDS = {
    "embedding_length": "hidden_size",
    "block_count": "num_layers",
    "feed_forward_length": "feed_forward_size",
    "wkv.head_size": "head_size",
}
FIELDS = {
    "rwkv6": {**_COMMON_FIELDS, "time_mix_extra_dim": "mix_rank", "time_decay_extra_dim": "decay_rank"},
    "rwkv7": {
        **_COMMON_FIELDS,
        "attention.decay_lora_rank": "decay_rank",
        "attention.iclr_lora_rank": "in_context_rank",
        "attention.value_residual_mix_lora_rank": "value_rank",
        "attention.gate_lora_rank": "gate_rank",
    },
}


def _norms() -> Iterator[Row]:
    for official, foreign in (
        ("blocks.0.ln0", "token_embd_norm"),
        ("blocks.{}.ln1", "blk.{}.attn_norm"),
        ("blocks.{}.ln2", "blk.{}.attn_norm_2"),
        ("blocks.{}.att.ln_x", "blk.{}.time_mix_ln"),
        ("ln_out", "output_norm"),
    ):
        for part in ("weight", "bias"):
            yield Row(f"{official}.{part}", f"{foreign}.{part}")


def _time_mix(official: str, foreign: str, change: Change = SAME) -> Row:
    return Row(f"blocks.{{}}.att.{official}", f"blk.{{}}.time_mix_{foreign}.weight", change)


def _channel_mix(official: str, foreign: str) -> Row:
    return Row(f"blocks.{{}}.ffn.{official}", f"blk.{{}}.channel_mix_{foreign}.weight")


def _mixes(official: str, letters: str) -> Iterator[Row]:
    """Yield the rows of vectors that old files have one by one, and new ones together."""
    for letter in letters:
        yield _time_mix(official + letter, f"lerp_{letter}")
    together = STACKED.then(reshaped((len(letters), 1, 1, -1), (len(letters), -1)))
    names = tuple(f"blocks.{{}}.att.{official}{letter}" for letter in letters)
    yield Row(names, "blk.{}.time_mix_lerp_fused.weight", together)  # the last row of a name is written


def layout(architecture: str, head_size: int) -> Layout:
    """Return the names and shapes of the weights."""
    rows = [
        Row("emb.weight", "token_embd.weight"),
        Row("head.weight", "output.weight"),
        *_norms(),
        *(_time_mix(f"{name}.weight", name) for name in ("receptance", "key", "value", "output")),
        *(_channel_mix(f"{name}.weight", name) for name in ("key", "value")),
    ]
    if architecture == "rwkv6":
        return Layout(
            [
                *rows,
                *_mixes("time_maa_", "wkvrg"),
                _time_mix("gate.weight", "gate"),
                _time_mix("time_maa_x", "lerp_x"),
                _time_mix("time_maa_w1", "w1", TRANSPOSED),
                _time_mix("time_maa_w2", "w2", TRANSPOSED),
                _time_mix("time_decay", "decay"),
                _time_mix("time_decay_w1", "decay_w1", TRANSPOSED),
                _time_mix("time_decay_w2", "decay_w2", TRANSPOSED),
                _time_mix("time_faaaa", "first"),
                _channel_mix("receptance.weight", "receptance"),
                _channel_mix("time_maa_k", "lerp_k"),
                _channel_mix("time_maa_r", "lerp_r"),
            ]
        )
    return Layout(
        [
            *rows,
            *_mixes("x_", "rwkvag"),
            *(_time_mix(name, name) for name in ("w0", "a0", "v0", "k_k", "k_a")),
            *(_time_mix(letter + side, letter + side, TRANSPOSED) for letter in "wavg" for side in "12"),
            _time_mix("r_k", "r_k", reshaped((-1,), (-1, head_size))),
            _channel_mix("x_k", "lerp_k"),
        ]
    )
