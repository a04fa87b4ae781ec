"""Models of published sizes with random weights, whose values change nothing about the time."""

from __future__ import annotations

import torch

from receptance.models import RWKV4, RWKV7, AnyModel, RWKV4Config, RWKV7Config

# Layers and channels; the last two are for trying things out.
SHAPES = {
    "RWKV-4 169M": (12, 768),
    "RWKV-7 0.1B": (12, 768),
    "RWKV-4 430M": (24, 1024),
    "RWKV-7 0.4B": (24, 1024),
    "RWKV-4 1.5B": (24, 2048),
    "RWKV-7 1.5B": (24, 2048),
    "RWKV-4 tiny": (2, 256),
    "RWKV-7 tiny": (2, 256),
}


@torch.no_grad()
def random_model(name: str) -> AnyModel:
    """Return a model of bfloat16 matrices, none of them zero, which could be faster."""
    layers, channels = SHAPES[name]
    with torch.device("meta"):  # the starting values of training would take a minute, and some are zero
        model: AnyModel = (
            RWKV4(RWKV4Config(vocabulary_size=50277, num_layers=layers, hidden_size=channels))
            if name.startswith("RWKV-4")
            else RWKV7(RWKV7Config(vocabulary_size=65536, num_layers=layers, hidden_size=channels))
        )
    model.cast_matrices(torch.bfloat16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        if model.is_matrix(key, parameter.shape):
            parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        else:
            parameter.uniform_(0.1, 0.9, generator=generator)
    return model
