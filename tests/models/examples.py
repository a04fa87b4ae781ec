"""Small models of every generation, and the tiny trained ones, for tests of what all generations promise."""

from __future__ import annotations

import torch

from receptance.models import (
    RWKV4,
    RWKV5,
    RWKV6,
    RWKV7,
    AnyModel,
    RWKV4Config,
    RWKV5Config,
    RWKV6Config,
    RWKV7Config,
)

SIZES = {"vocabulary_size": 29, "num_layers": 3, "hidden_size": 16}

EXAMPLES = {
    "4": lambda: RWKV4(RWKV4Config(**SIZES, attention_size=24, feed_forward_size=40)),
    "5.0": lambda: RWKV5(RWKV5Config(**SIZES, head_size=4, version="5.0")),
    "5.1": lambda: RWKV5(RWKV5Config(**SIZES, head_size=8, version="5.1")),
    "5.2": lambda: RWKV5(RWKV5Config(**SIZES, head_size=4, version="5.2")),
    "6": lambda: RWKV6(RWKV6Config(**SIZES, head_size=4, mix_rank=3, decay_rank=5)),
    "7": lambda: RWKV7(
        RWKV7Config(**SIZES, head_size=4, decay_rank=3, in_context_rank=4, value_rank=5, gate_rank=6)
    ),
}


def example(generation: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> AnyModel:
    """A model in which every parameter matters: the starting values, all disturbed."""
    generator = torch.Generator().manual_seed(seed)
    model = EXAMPLES[generation]()
    model.initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.to(dtype)
