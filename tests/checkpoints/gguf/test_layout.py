"""Names and shapes in GGUF are those that llama.cpp's loader asks for, and lead back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance.checkpoints.contents import weights
from receptance.checkpoints.gguf.layout import FIELDS, layout
from receptance.models import RWKV6Config, RWKV7Config
from tests.models.examples import example

FILE = Path("a.gguf")


def demands(config: RWKV6Config | RWKV7Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors that llama.cpp's loader asks for, with the innermost size first."""
    width, rows, wide = config.hidden_size, config.vocabulary_size, config.feed_forward_size
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (width, rows),
        "output.weight": (width, rows),
        **{
            f"{name}.{part}": (width,)
            for name in ("token_embd_norm", "output_norm")
            for part in ("weight", "bias")
        },
    }
    for layer in range(config.num_layers):
        square = ["receptance", "key", "value", "output"]
        block: dict[str, tuple[int, ...]] = {
            "channel_mix_key.weight": (width, wide),
            "channel_mix_value.weight": (wide, width),
            "channel_mix_lerp_k.weight": (width,),
            **{
                f"{name}.{part}": (width,)
                for name in ("attn_norm", "attn_norm_2", "time_mix_ln")
                for part in ("weight", "bias")
            },
        }
        if isinstance(config, RWKV6Config):
            square.append("gate")
            mix, decay, size = config.mix_rank, config.decay_rank, config.head_size
            block |= {
                "time_mix_w1.weight": (width, 5 * mix),
                "time_mix_w2.weight": (mix, width, 5),
                "time_mix_lerp_x.weight": (width,),
                "time_mix_lerp_fused.weight": (width, 1, 1, 5),
                "time_mix_first.weight": (size, width // size),
                "time_mix_decay.weight": (width,),
                "time_mix_decay_w1.weight": (width, decay),
                "time_mix_decay_w2.weight": (decay, width),
                "channel_mix_lerp_r.weight": (width,),
                "channel_mix_receptance.weight": (width, width),
            }
        else:
            ranks = {"w": config.decay_rank, "a": config.in_context_rank, "g": config.gate_rank}
            ranks["v"] = config.value_rank if layer else config.in_context_rank
            for letter, rank in ranks.items():
                block[f"time_mix_{letter}1.weight"] = (width, rank)
                block[f"time_mix_{letter}2.weight"] = (rank, width)
            block |= {f"time_mix_{name}.weight": (width,) for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k")}
            block["time_mix_lerp_fused.weight"] = (width, 1, 1, 6)
        block |= {f"time_mix_{name}.weight": (width, width) for name in square}
        found |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return found


@pytest.mark.parametrize(("generation", "extra"), [("6", set()), ("7", {"v0", "v1", "v2"})])
def test_the_weights_become_what_the_loader_of_llama_cpp_asks_for(generation: str, extra: set[str]) -> None:
    model = example(generation, torch.float32)
    names = layout(f"rwkv{generation}", model.config.head_size)
    official = weights(model.state_dict())
    foreign = names.to_foreign(official)
    expected = demands(model.config)
    for name in extra:  # which the writer adds to the first layer
        del expected[f"blk.0.time_mix_{name}.weight"]
    assert {name: tuple(reversed(weight.shape)) for name, weight in foreign.items()} == expected
    back = names.to_official(FILE, foreign)
    assert back.keys() == official.keys()
    for name, weight in official.items():
        assert torch.equal(back[name].read(), weight.read())


@pytest.mark.parametrize(
    ("architecture", "ours", "theirs"),
    [
        ("rwkv6", "blocks.0.ln0.weight", "token_embd_norm.weight"),
        ("rwkv6", "blocks.3.ln2.bias", "blk.3.attn_norm_2.bias"),
        ("rwkv6", "blocks.12.att.time_maa_r", "blk.12.time_mix_lerp_fused.weight"),
        ("rwkv6", "blocks.1.att.time_maa_x", "blk.1.time_mix_lerp_x.weight"),
        ("rwkv6", "blocks.1.att.time_faaaa", "blk.1.time_mix_first.weight"),
        ("rwkv6", "blocks.1.ffn.time_maa_r", "blk.1.channel_mix_lerp_r.weight"),
        ("rwkv7", "blocks.0.ln0.bias", "token_embd_norm.bias"),
        ("rwkv7", "blocks.60.att.x_g", "blk.60.time_mix_lerp_fused.weight"),
        ("rwkv7", "blocks.1.att.v2", "blk.1.time_mix_v2.weight"),
        ("rwkv7", "blocks.1.ffn.x_k", "blk.1.channel_mix_lerp_k.weight"),
        ("rwkv7", "blocks.1.att.ln_x.bias", "blk.1.time_mix_ln.bias"),
        ("rwkv7", "ln_out.weight", "output_norm.weight"),
    ],
)
def test_names_are_those_of_llama_cpp(architecture: str, ours: str, theirs: str) -> None:
    assert layout(architecture, 64).foreign_name(ours) == theirs


@pytest.mark.parametrize(("architecture", "config"), [("rwkv6", RWKV6Config), ("rwkv7", RWKV7Config)])
def test_every_key_of_the_metadata_is_a_field_of_the_config(
    architecture: str, config: type[RWKV6Config | RWKV7Config]
) -> None:
    assert set(FIELDS[architecture].values()) <= set(config.__dataclass_fields__)
