"""Every RWKV is told by its names, and what cannot be built is refused by its own name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints.contents import Contents
from receptance.checkpoints.generations import recognise
from receptance.errors import CheckpointError
from receptance.models import RWKV4
from tests.checkpoints.files import official, random_model


def contents(*names: str, **config: object) -> Contents:
    tensors = {name: torch.zeros(4, 4) for name in names}
    return Contents(path=Path("file"), format="pth", tensors=tensors, files=(), config=config)


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["blocks.0.att.k_k", "blocks.0.att.r_k"], 'RWKV-7 "Goose"'),
        (["model.layers.0.attn.r_k"], 'RWKV-7 "Goose"'),
        (["blocks.0.att.r_k", "blocks.0.ffn.s_emb.weight"], "RWKV-7a"),
        (["blocks.0.att.r_k", "blocks.0.ffn.s_emb.weight", "blocks.0.qkv.q_emb.weight"], "RWKV-7b"),
        (["blocks.0.att.r_k", "blocks.0.ffn.enn.weight"], 'RWKV-8 "Heron"'),
        (["blocks.0.att.r_k", "blocks.0.rosa.q.weight"], "RWKV-8 with ROSA"),
        (["blocks.0.att.time_maa_x", "blocks.0.att.gate.weight", "blocks.0.att.time_faaaa"], "RWKV-6"),
        (["blocks.0.att.time_maa_rkvw_w1", "blocks.0.att.time_maa_x"], "RWKV-6b or 6c"),
        (["blocks.0.att.time_maa_x", "blocks.0.att.gate_w1"], "RWKV-6a"),
        (["blocks.0.att.gate.weight", "blocks.0.att.ln_x.weight", "blocks.0.att.time_faaaa"], "RWKV-5.2"),
        (["blocks.0.att.gate.weight", "blocks.0.att.ln_x.weight", "blocks.0.att.time_first"], "RWKV-5.1"),
        (["blocks.0.att.ln_x.weight", "blocks.0.att.time_first"], "RWKV-5.0"),
        (["blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B"], "LoRA adapter"),
        (["blocks.0.att.time_state"], "tuned initial state"),
        (["blocks.0.att.time_decay", "head_q.weight", "head_k.weight", "copy_mask"], "head-QK"),
        (["blocks.0.ffnPre.key.weight", "blocks.1.att.time_decay"], "feed-forward first layer"),
        (["blocks.0.att.time_decay", "blocks.4.tiny_ln.weight"], "RWKV-4a"),
        (["blocks.0.att.time_decay", "blocks.0.att.qq.weight", "blocks.0.att.time_mix_qq"], "RWKV-4b"),
        (["blocks.0.att.time_decay", "pos_emb_x"], "position embeddings"),
        (["transformer.h.0.attn.c_attn.weight"], "no RWKV model"),
        ([], "no RWKV model"),
    ],
)
def test_what_cannot_be_built_is_refused_by_its_name(names: list[str], title: str) -> None:
    with pytest.raises(CheckpointError) as refusal:
        recognise(contents("emb.weight", *names) if names else contents())
    assert title in str(refusal.value)


def test_rwkv4_is_recognised() -> None:
    assert recognise(contents(*official(random_model()))).model is RWKV4


def test_a_header_that_claims_another_generation_is_refused() -> None:
    with pytest.raises(CheckpointError, match="generation '7', but the tensors are RWKV-4"):
        recognise(contents("blocks.0.att.time_decay", generation="7"))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("rwkv-5.1-730K", "RWKV-5.0"),  # rwkv.cpp calls it 5.1; it has no gate
        ("rwkv-5.2-730K", "RWKV-5.2"),
        ("rwkv-6.0-3m-dequantQ5_1", "RWKV-6"),
        ("rwkv-7.0-834K", "RWKV-7"),
    ],
)
def test_trained_models_of_other_generations_are_refused(shared: Path, name: str, title: str) -> None:
    with pytest.raises(CheckpointError, match=title):
        checkpoints.load(shared / "data" / "tiny-models" / f"{name}.safetensors")


@pytest.mark.parametrize(
    "name", ["251016_rosa_1bit_run", "251105_reverse_L2", "260123_reverse_L2_only_rwkv7"]
)
def test_the_authors_experiments_are_refused(shared: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="RWKV-8 with ROSA"):
        checkpoints.load(shared / "data" / "checkpoints" / name)


def test_a_file_of_rwkv_cpp_is_refused_by_its_name(shared: Path) -> None:
    with pytest.raises(CheckpointError, match=r"rwkv\.cpp"):
        checkpoints.load(shared / "data" / "tiny-models" / "rwkv-cpp-bin" / "tiny-rwkv-4v0-660K-FP16.bin")
