"""What can be written is a table, and what it cannot hold is refused before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from receptance.checkpoints import writers
from receptance.checkpoints.stored_model import from_module
from receptance.checkpoints.writers import WRITERS, FormatName
from receptance.errors import ConfigError
from tests.checkpoints.files import random_model
from tests.models.examples import example


def test_every_name_of_a_format_has_a_writer() -> None:
    assert tuple(WRITERS) == get_args(FormatName)


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("a.safetensors", "receptance"),
        ("a.pth", "pth"),
        ("folder", "transformers"),
        ("rwkv-4.0", "transformers"),
    ],
)
def test_the_name_of_a_destination_tells_the_format(name: str, format_name: FormatName) -> None:
    assert writers.format_of(Path(name)) == format_name


def test_a_suffix_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'\.zip' says nothing about the format.*\.safetensors, \.pth"):
        writers.format_of(Path("model.zip"))


@pytest.mark.parametrize(
    ("format_name", "quantization", "message"),
    [
        ("onnx", None, "format is 'onnx', but it must be one of receptance, pth"),
        ("pth", "q8_0", "the format 'pth' has no quantisation 'q8_0', but none"),
    ],
)
def test_what_is_no_format_is_refused(
    tmp_path: Path, format_name: str, quantization: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        writers.write(tmp_path / "a", from_module(random_model()), format_name, quantization)
    assert list(tmp_path.iterdir()) == []


def test_a_format_of_tensors_alone_refuses_what_they_cannot_say(tmp_path: Path) -> None:
    stored = from_module(example("7", torch.float32))
    unusual = replace(stored, config=replace(stored.config, group_norm_epsilon=1e-5))
    with pytest.raises(ConfigError, match=r"'pth' cannot say that group_norm_epsilon is 1e-05"):
        writers.write(tmp_path / "a.pth", unusual, "pth")
    writers.write(tmp_path / "a.safetensors", unusual, "receptance")
