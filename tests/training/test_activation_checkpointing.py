"""What is forgotten and computed again changes no number, and is not in memory meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from receptance import kernels
from receptance.checkpoints.generations import GENERATIONS
from receptance.models import AnyModel
from receptance.training import train
from receptance.training.activation_checkpointing import forget_activations
from receptance.training.metrics import read_metrics
from tests.training.conftest import MakeConfig

LAYERS = 6


def make_model(generation: str) -> AnyModel:
    """Return a model that drops out, and in which every parameter has a gradient."""
    family = GENERATIONS[generation]
    model = family.model(family.config(vocabulary_size=16, hidden_size=64, num_layers=LAYERS)).drop(0.2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.cast_matrices(torch.bfloat16).train()


def loss(model: AnyModel, tokens: Tensor) -> Tensor:
    hidden, end = model.features(tokens)
    text, _ = kernels.linear_cross_entropy(hidden, model.head.weight, tokens.roll(-1, 1))
    return text + sum(tensor.float().square().mean() for tensor in end.tensors().values())


def kept_bytes(model: AnyModel, tokens: Tensor) -> int:
    """Return the memory of all that a forward pass keeps for the way back."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.features(tokens)
    return sum(kept.values())


@pytest.mark.parametrize("generation", GENERATIONS)
def test_loss_and_gradients_stay_the_same_to_the_bit_also_with_dropout(generation: str) -> None:
    model = make_model(generation)
    tokens = torch.randint(16, (3, 40), generator=torch.Generator().manual_seed(1))
    found: list[list[Tensor]] = []
    for _ in range(2):
        torch.manual_seed(2)
        value = loss(model, tokens)
        torch.manual_seed(3)  # whatever is drawn in between is not drawn again
        found.append([value.detach(), *torch.autograd.grad(value, list(model.parameters()))])
        forget_activations(model)
    for kept, again in zip(*found, strict=True):
        assert torch.equal(kept, again)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_is_kept_is_what_goes_into_each_block(generation: str) -> None:
    model = make_model(generation)
    tokens = torch.randint(16, (4, 256))
    before = kept_bytes(model, tokens)
    after = kept_bytes(forget_activations(model), tokens)
    stream = tokens.numel() * model.config.hidden_size * model.dtype.itemsize
    # A stream a block, and a handful around them; RWKV-7 has the first layer's values go along too.
    assert after < (LAYERS + 8) * stream + sum(weight.nbytes for weight in model.parameters())
    assert after < before / 8


@pytest.mark.parametrize("chunk", [0, 10])
def test_a_run_gives_the_same_losses_and_gradients_to_the_bit(make_config: MakeConfig, chunk: int) -> None:
    config = make_config(dropout=0.2, max_steps=3, dtype="bfloat16", chunk=chunk)
    logs: list[list[dict[str, Any]]] = []
    for switch in (False, True):
        run = replace(config.run, folder=config.run.folder.with_name(str(switch)))
        training = replace(config.training, activation_checkpointing=switch)
        train(replace(config, run=run, training=training))
        logs.append(read_metrics(run.folder / "metrics.jsonl"))
    for kept, again in zip(*logs, strict=True):
        assert kept["loss"] == again["loss"]
        assert kept.get("gradient_norm") == again.get("gradient_norm")
