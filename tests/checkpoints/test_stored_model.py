"""A stored model knows everything about its weights before it reads them, and checks what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError
from tests.checkpoints.files import random_model


def test_opening_a_model_reads_no_weight(tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.head.weight[2, 3] = torch.inf
    torch.save(model.state_dict(), tmp_path / "a.pth")
    stored = checkpoints.open_model(tmp_path / "a.pth")
    assert stored.config == model.config
    assert {name: weight.shape for name, weight in stored.weights.items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
    with pytest.raises(CheckpointError, match=r"'head\.weight' holds inf at \[2, 3\]"):
        stored.weights["head.weight"].read()


def test_a_cast_is_the_one_of_torch_and_keeps_vectors_wide() -> None:
    model = random_model()
    cast = from_module(model).cast(torch.bfloat16)
    assert cast.dtype == torch.bfloat16
    assert torch.equal(cast.weights["head.weight"].read(), model.head.weight.bfloat16())
    vector = cast.weights["blocks.0.att.time_decay"]
    assert vector.dtype == vector.read().dtype == torch.float32


def test_a_value_too_large_for_the_dtype_is_refused_by_name() -> None:
    model = random_model()
    with torch.no_grad():
        model.head.weight[0, 0] = 1e5
    cast = from_module(model).cast(torch.float16)
    with pytest.raises(
        CheckpointError, match=r"'head\.weight' holds values up to 1e\+05, too large for torch\.float16"
    ):
        cast.weights["head.weight"].read()


def test_the_empty_module_has_the_shapes_and_no_numbers() -> None:
    empty = from_module(random_model()).empty()
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert empty.num_parameters == random_model().num_parameters
