"""Models that programs for folders of transformers can run, and what the tests change in the folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from receptance.models import RWKV5, RWKV6, RWKV7, AnyModel, RWKV5Config, RWKV6Config, RWKV7Config

_SIZES = {"vocabulary_size": 53, "num_layers": 3, "hidden_size": 128, "head_size": 64}
_MODELS: dict[str, Any] = {  # Any: each takes its own config
    "5": (RWKV5, RWKV5Config),
    "6": (RWKV6, RWKV6Config),
    "7": (RWKV7, RWKV7Config),
}


def small_model(generation: str, **sizes: int | float) -> AnyModel:
    """A model with heads of 64 channels, in which every parameter matters."""
    build, config = _MODELS[generation]
    model: AnyModel = build(config(**{**_SIZES, **sizes}))
    generator = torch.Generator().manual_seed(0)
    model.initialise(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = parameter.shape[-1] ** -0.5 if model.is_matrix(name, parameter.shape) else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def official(model: AnyModel) -> dict[str, Tensor]:
    """Return the weights as they are in the model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def change_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
