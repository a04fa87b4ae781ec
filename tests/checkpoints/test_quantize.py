"""Quantising writes a file that every reader understands, brings the tokenizer along and spoils nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.errors import CheckpointError, ConfigError
from receptance.quantization.packed import FORMATS, Format, PackedMatrix
from receptance.tokenizers import load_tokenizer
from tests.checkpoints.files import random_model
from tests.checkpoints.memory import memory_taken, needs_memory_figures
from tests.checkpoints.tuning.adapters import random_lora, saved
from tests.models.examples import EXAMPLES, example


@pytest.mark.parametrize("matrix_format", FORMATS)
@pytest.mark.parametrize("generation", EXAMPLES)
def test_every_generation_and_format_is_written_and_read(
    generation: str, matrix_format: Format, tmp_path: Path
) -> None:
    checkpoints.save(example(generation, torch.float32), tmp_path / "a.pth", format="pth")
    source = checkpoints.open_model(tmp_path / "a.pth")
    result = checkpoints.quantize(source, tmp_path / "b.safetensors", matrix_format)
    assert result.source is source
    assert result.destination.description == f"{tmp_path / 'b.safetensors'} (receptance, {matrix_format})"
    again = checkpoints.compare(source, checkpoints.open_model(tmp_path / "b.safetensors"))
    assert again.settings == {}
    assert (again.logits == 0) == (matrix_format == "float32")


def test_what_is_said_about_the_model_goes_along(tmp_path: Path) -> None:
    checkpoints.save(
        random_model(layer_norm_epsilon=1e-6),
        tmp_path / "a.safetensors",
        tokenizer="bytes",
        metadata={"n": "1"},
    )
    result = checkpoints.quantize(
        checkpoints.open_model(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", "int8"
    )
    found = result.destination
    assert (found.tokenizer, found.metadata) == ("bytes", {"n": "1"})
    assert found.config == random_model(layer_norm_epsilon=1e-6).config


def test_the_vocabulary_comes_along(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "to").mkdir()
    vocabulary = shared / "data" / "tokenizers" / "20B_tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(vocabulary.read_bytes())
    checkpoints.save(
        random_model(vocabulary_size=50277), tmp_path / "a.safetensors", tokenizer="tokenizer.json"
    )
    result = checkpoints.quantize(
        checkpoints.open_model(tmp_path / "a.safetensors"), tmp_path / "to" / "b.safetensors", "int4"
    )
    assert result.tokenizer_file == tmp_path / "to" / "tokenizer.json"
    assert load_tokenizer(result.tokenizer_file).encode("Hello") == load_tokenizer(vocabulary).encode("Hello")


def test_an_adapter_is_merged_before_anything_is_rounded(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    checkpoints.save(model.cast_matrices(torch.bfloat16), tmp_path / "a.safetensors")
    lora = saved(tmp_path / "lora.pth", random_lora(model))
    tuning = checkpoints.Tuning(lora=lora, lora_alpha=8)
    source = tuning.applied(checkpoints.open_model(tmp_path / "a.safetensors"), torch.float32)
    found = checkpoints.quantize(source, tmp_path / "b.safetensors", "int4").destination
    for name in source.formats:
        merged = source.weights[name].read().float()
        assert torch.equal(found.weights[name].read(), PackedMatrix.pack(merged, "int4").dequantize())


def test_nothing_is_written_over(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a.safetensors")
    source = checkpoints.open_model(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="exists already"):
        checkpoints.quantize(source, tmp_path / "a.safetensors", "int8")
    with pytest.raises(ConfigError, match=r"a quantised model is a \.safetensors file"):
        checkpoints.quantize(source, tmp_path / "a.gguf", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_integers_are_not_rounded_again(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a.safetensors")
    source = checkpoints.open_model(tmp_path / "a.safetensors")
    once = checkpoints.quantize(source, tmp_path / "b.safetensors", "int8").destination
    with pytest.raises(ConfigError, match="is in int8 already"):
        checkpoints.quantize(once, tmp_path / "c.safetensors", "int4")


def test_a_weight_that_cannot_be_read_leaves_no_file(tmp_path: Path) -> None:
    model = random_model()
    checkpoints.save(model, tmp_path / "a.safetensors")
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-4:] = torch.tensor(float("nan")).numpy().tobytes()
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="nan"):
        checkpoints.quantize(
            checkpoints.open_model(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", "int8"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_progress_reaches_the_whole(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a.safetensors")
    source = checkpoints.open_model(tmp_path / "a.safetensors")
    seen: list[tuple[str, int, int]] = []
    checkpoints.quantize(
        source, tmp_path / "b.safetensors", "int4", report=lambda *report: seen.append(report)
    )
    assert seen[-1] == ("quantising", source.num_bytes, source.num_bytes)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def _quantise(source: Path, folder: Path) -> None:
    checkpoints.quantize(checkpoints.open_model(source), folder / "quantised.safetensors", "int8")


@needs_memory_figures
def test_a_small_part_of_the_model_is_in_memory(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "small.safetensors")
    size, taken = memory_taken(_quantise, tmp_path / "small.safetensors", tmp_path)
    assert size > 150e6
    assert taken < 0.4 * size
