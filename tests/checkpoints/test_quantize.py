"""Quantising writes a file that every reader understands, brings the tokenizer along and spoils nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.errors import CheckpointError, ConfigError
from receptance.quantization.packed import FORMATS, Format, PackedMatrix
from receptance.tokenizers import load_tokenizer
from tests.checkpoints.adapters import random_lora, saved
from tests.checkpoints.files import random_model
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


# Quantises a model of 160 MB, and prints the largest memory that it took beyond what it had before.
MEASURED_QUANTIZATION = """
import sys, threading, time
from pathlib import Path
import torch
from receptance import checkpoints
from receptance.checkpoints import pickled, stored_model
from receptance.checkpoints.contents import Weight
from receptance.models import RWKV7Config

def anonymous_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    global largest
    while not finished:
        largest = max(largest, anonymous_bytes())
        time.sleep(0.001)

folder = Path(sys.argv[1])
config = RWKV7Config(vocabulary_size=2000, num_layers=24, hidden_size=512)
shapes = stored_model.empty_model(config).state_dict()
pickled.write_weights(folder / "large.pth", {
    name: Weight(tuple(like.shape), torch.bfloat16, lambda like=like: torch.full(like.shape, 0.01).bfloat16())
    for name, like in shapes.items()
})
checkpoints.quantize(checkpoints.open_model(sys.argv[2]), folder / "warm.safetensors", "int8")
finished, largest, before = False, 0, anonymous_bytes()
watcher = threading.Thread(target=watch)
watcher.start()
checkpoints.quantize(checkpoints.open_model(folder / "large.pth"), folder / "large.safetensors", "int8")
finished = True
watcher.join()
print((folder / "large.pth").stat().st_size, largest - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells what memory is whose")
def test_a_small_part_of_the_model_is_in_memory(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "small.safetensors")
    child = subprocess.run(
        [sys.executable, "-c", MEASURED_QUANTIZATION, str(tmp_path), str(tmp_path / "small.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    size, taken = map(int, child.stdout.split())
    assert size > 150e6
    assert taken < 0.4 * size
