"""Random adapters for the tests, and what they do to a layer by definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from receptance import checkpoints
from receptance.models import AnyModel

ALPHA, RANK = 6.0, 3


def linears(model: AnyModel) -> dict[str, nn.Linear]:
    """The matrices that adapters are for, by the names of their modules."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def random_lora(
    model: AnyModel, seed: int = 5, rank: int = RANK, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A and B for each linear layer, as RWKV-PEFT saves them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, linear in linears(model).items():
        rows, columns = linear.weight.shape
        for part, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            tensors[f"{name}.lora_{part}"] = (0.3 * torch.randn(shape, generator=generator)).to(dtype)
    return tensors


def random_miss(model: AnyModel, seed: int = 5, rank: int = RANK) -> dict[str, Tensor]:
    """D for each linear layer, as RWKV-PEFT saves it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.disha": 0.1 * torch.randn((rank, len(linear.weight)), generator=generator)
        for name, linear in linears(model).items()
    }


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write tensors as RWKV-PEFT does."""
    torch.save(tensors, path)
    return path


def model_file(path: Path, model: AnyModel) -> Path:
    """Write a model in our format."""
    checkpoints.save(model, path)
    return path


@contextmanager
def adapted(model: AnyModel, change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Let a change, made of the name of a linear layer and its input, be added to the layer's output."""
    hooks = [
        module.register_forward_hook(lambda _, given, out, name=name: out + change(name, given[0]))  # type: ignore[misc] # bound early
        for name, module in linears(model).items()
    ]
    yield
    for hook in hooks:
        hook.remove()
