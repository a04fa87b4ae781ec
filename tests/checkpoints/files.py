"""Models and files that the tests of checkpoints share."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from receptance.checkpoints.names import published_shape
from receptance.models import RWKV4, AnyModel, RWKV4Config


def random_model(seed: int = 0, **sizes: int | float) -> RWKV4:
    """Return a small model in which every parameter matters: nothing is zero, one or equal to another."""
    # A test may set any field of the config.
    config = RWKV4Config(**{"vocabulary_size": 31, "num_layers": 3, "hidden_size": 24, **sizes})  # type: ignore[arg-type]
    with torch.device("meta"):
        model = RWKV4(config)
    weights = {name: tensor.clone() for name, tensor in _random_weights(config, seed).items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


@functools.lru_cache(maxsize=8)
def _random_weights(config: RWKV4Config, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    model = RWKV4(config)
    model.initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.state_dict()


def random_tokens(model: AnyModel, time: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocabulary_size, (1, time), generator=generator)


def official(model: RWKV4) -> dict[str, Tensor]:
    """Return the weights as BlinkDL's trainer would save them."""
    return {
        name: published_shape(name, tensor).detach().clone() for name, tensor in model.state_dict().items()
    }


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Check that two models are equal to the bit, dtypes and order included."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def write_raw_safetensors(path: Path, header: bytes | Mapping[str, object], data: bytes = b"") -> Path:
    """Write a safetensors file in which anything may be wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def rewrite_archive(
    source: Path,
    destination: Path,
    change: Callable[[str, bytes], bytes] = lambda _, content: content,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Copy a .pth file record by record, changed or compressed."""
    with (
        zipfile.ZipFile(source) as archive,
        zipfile.ZipFile(destination, "w", compression) as copy,
    ):
        for name in archive.namelist():
            copy.writestr(name, change(name.partition("/")[2], archive.read(name)))
    return destination
