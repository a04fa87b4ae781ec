"""Models that rwkv.cpp can run, of every generation that it knows."""

from __future__ import annotations

from dataclasses import replace

import torch

from receptance.models import AnyModel
from tests.checkpoints.files import random_model
from tests.models.examples import example

GENERATIONS = ("4", "5.0", "5.2", "6", "7")


def model_of(generation: str, dtype: torch.dtype = torch.float32) -> AnyModel:
    """Return an example that rwkv.cpp can run."""
    return random_model().to(dtype) if generation == "4" else example(generation, dtype)


def wide_model(generation: str) -> AnyModel:
    """Return a model whose matrices can be quantised."""
    config = model_of(generation).config
    ranks = ("mix_rank", "decay_rank", "in_context_rank", "value_rank", "gate_rank")
    sizes = {"hidden_size": 128, "feed_forward_size": 256, "attention_size": 128, "head_size": 32}
    sizes |= dict.fromkeys(ranks, 32)
    known = {name: size for name, size in sizes.items() if hasattr(config, name)}
    model: AnyModel = type(model_of(generation))(replace(config, **known))
    generator = torch.Generator().manual_seed(0)
    model.initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model
