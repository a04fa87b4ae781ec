"""Models to measure: their weights are random, and none of them is zero."""

from __future__ import annotations

import torch

from receptance.checkpoints.stored_model import empty_model
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

MODELS = {"4": RWKV4, "5": RWKV5, "6": RWKV6, "7": RWKV7}
CONFIGS = {"4": RWKV4Config, "5": RWKV5Config, "6": RWKV6Config, "7": RWKV7Config}
PILE_VOCABULARY = 50277
# Layers and channels of the models of the paper (table 2).
PAPER_SIZES = {
    "169M": (12, 768),
    "430M": (24, 1024),
    "1.5B": (24, 2048),
    "3B": (32, 2560),
    "7B": (32, 4096),
    "14B": (40, 5120),
}


def shape_of(
    layers: int, channels: int, *, generation: str = "4", vocabulary: int = PILE_VOCABULARY
) -> AnyModel:
    """Return a model without weights (on the meta device)."""
    sizes = {"vocabulary_size": vocabulary, "num_layers": layers, "hidden_size": channels}
    return empty_model(CONFIGS[generation](**sizes))


@torch.no_grad()
def random_model(
    layers: int,
    channels: int,
    *,
    generation: str = "4",
    vocabulary: int = PILE_VOCABULARY,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> AnyModel:
    """Return a model with matrices in `dtype`, drawn so that the size of what passes them stays the same."""
    model = shape_of(layers, channels, generation=generation, vocabulary=vocabulary)
    model.cast_matrices(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if model.is_matrix(name, parameter.shape):
            parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        else:
            parameter.uniform_(0.1, 0.9, generator=generator)
    return model
