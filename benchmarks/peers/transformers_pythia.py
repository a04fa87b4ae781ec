"""transformers: a Pythia of the same number of layers and channels, with weights of its own."""

from __future__ import annotations

import torch

from benchmarks.peers.engine import Engine, MissingError, Request
from benchmarks.peers.transformers_rwkv import Transformers
from receptance import checkpoints


class Pythia(Transformers):
    """Another kind of model, so its logits are nobody else's."""

    same_weights = False


def pythia(layers: int, channels: int, dtype: torch.dtype, longest: int = 2048) -> Pythia:
    """Return a Pythia of this size, with heads of 64 and random weights."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    settings = GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=channels,
        num_hidden_layers=layers,
        num_attention_heads=channels // 64,
        intermediate_size=4 * channels,
        max_position_embeddings=longest,
    )
    return Pythia(GPTNeoXForCausalLM(settings).to(dtype), "past_key_values")


def open_engine(request: Request) -> Engine:
    """Make a Pythia of the size of the file's model."""
    if request.matrix_format not in ("float32", "bfloat16"):
        raise MissingError("it has no integers on a CPU")
    torch.set_num_threads(request.threads)
    config = checkpoints.open_model(request.source).config
    return pythia(config.num_layers, config.hidden_size, getattr(torch, request.matrix_format))
