"""Adapters and tuned states go from one format to another equal to the bit, and say what is lost."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints.contents import weights
from receptance.checkpoints.tuning import parts
from receptance.errors import CheckpointError, ConfigError
from tests.checkpoints.tuning.adapters import model_file, random_lora, random_miss, saved
from tests.checkpoints.tuning.test_tuned_state import random_state, stored
from tests.models.examples import example


def tensors_of(path: Path) -> dict[str, Tensor]:
    part = parts.read(path)
    assert part is not None
    return {name: weight.read() for name, weight in part.weights.items()}


def assert_equal_to_the_bit(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("generation", ["4", "6", "7"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_goes_through_every_format_and_back(
    tmp_path: Path, generation: str, dtype: torch.dtype
) -> None:
    tensors = random_lora(example(generation), dtype=dtype)
    path = saved(tmp_path / "a.pth", tensors)
    for name in ("b.safetensors", "c", "d.safetensors", "e.pth"):
        result = parts.convert(path, tmp_path / name, lora_alpha=16 if name == "b.safetensors" else None)
        path = tmp_path / name
        assert_equal_to_the_bit(tensors_of(path), tensors)
    assert result.lost == {"lora_alpha": "16"}
    assert_equal_to_the_bit(torch.load(path, weights_only=True), tensors)


@pytest.mark.parametrize("generation", ["5.2", "6", "7"])
def test_a_state_goes_to_our_format_and_back(tmp_path: Path, generation: str) -> None:
    model = example(generation, torch.float32)
    tensors = stored(model, random_state(model))
    parts.convert(saved(tmp_path / "a.pth", tensors), tmp_path / "b.safetensors")
    parts.convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    assert_equal_to_the_bit(torch.load(tmp_path / "c.pth", weights_only=True), tensors)


def test_our_file_says_alpha_and_generation(tmp_path: Path) -> None:
    parts.convert(
        saved(tmp_path / "a.pth", random_lora(example("7"))), tmp_path / "a.safetensors", lora_alpha=32.0
    )
    model = example("6", torch.float32)
    checkpoints.save_state(random_state(model), model.config, tmp_path / "state.safetensors")
    for name, metadata in (("a", {"lora_alpha": "32"}), ("state", {"generation": "6"})):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt", **metadata}


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", random_miss(example("7")))
    result = parts.convert(source, tmp_path / "a.safetensors")
    assert result.source_sha256 == {source: hashlib.sha256(source.read_bytes()).hexdigest()}
    destination = tmp_path / "a.safetensors"
    assert result.destination_sha256 == {destination: hashlib.sha256(destination.read_bytes()).hexdigest()}


@settings(deadline=None, max_examples=20)
@given(
    names=st.sets(
        st.from_regex(r"blocks\.[0-9]\.(att|ffn)\.[a-z]{1,5}", fullmatch=True), min_size=1, max_size=4
    ),
    sizes=st.tuples(*3 * [st.integers(1, 6)]),
    suffix=st.sampled_from([".pth", ".safetensors", ""]),
)
def test_any_names_and_shapes_come_back(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], sizes: tuple[int, int, int], suffix: str
) -> None:
    rank, rows, columns = sizes
    tensors = {}
    for name in names:
        tensors |= {f"{name}.lora_A": torch.randn(rank, columns), f"{name}.lora_B": torch.randn(rows, rank)}
    path = tmp_path_factory.mktemp("part") / f"adapter{suffix}"
    parts.write(path, weights(tensors), {"lora_alpha": "4"})
    assert_equal_to_the_bit(tensors_of(path), tensors)


def test_what_is_no_part_or_has_no_place_is_refused(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    assert parts.read(path) is None
    with pytest.raises(CheckpointError, match="neither an adapter nor a tuned state"):
        parts.convert(path, tmp_path / "out.pth")
    adapter = saved(tmp_path / "adapter.pth", random_lora(model))
    state = saved(tmp_path / "state.pth", stored(model, random_state(model)))
    for source, name in ((adapter, "out.gguf"), (state, "out"), (state, "out.bin")):
        with pytest.raises(ConfigError, match=r"a part of a model can be a \.pth or \.safetensors file"):
            parts.convert(source, tmp_path / name)
    with pytest.raises(ConfigError, match="exists already"):
        parts.convert(adapter, state)
    nan = {"head.lora_A": torch.full((2, 4), torch.nan), "head.lora_B": torch.zeros(3, 2)}
    with pytest.raises(CheckpointError, match=r"'head\.lora_A' holds nan"):
        parts.convert(saved(tmp_path / "nan.pth", nan), tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("out*"))
