"""`receptance quantize` says what it did, how large the model was and is, and what it does not do."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest
import torch

from receptance import checkpoints
from receptance.cli import terminal
from receptance.cli.main import main
from receptance.cli.quantize import quantize
from receptance.quantization.packed import FORMATS
from tests.checkpoints.files import random_model
from tests.checkpoints.tuning.adapters import random_lora, saved
from tests.models.examples import example


def test_it_prints_the_formats_and_the_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, destination = tmp_path / "a.pth", tmp_path / "b.safetensors"
    checkpoints.save(random_model(vocabulary_size=2000), source, format="pth")
    assert main(["quantize", str(source), str(destination), "--format", "int4", "--nearest", "--force"]) == 0
    printed = capsys.readouterr()
    assert f"{source} (pth, float32) -> {destination} (receptance, int4)\n" in printed.out
    sizes = [terminal.bytes_as_text(path.stat().st_size) for path in (source, destination)]
    assert f"119,352 parameters, {' -> '.join(sizes)}\n" in printed.out
    assert destination.stat().st_size < source.stat().st_size / 3
    assert printed.err == ""


def test_the_formats_are_those_of_the_native_runtime() -> None:
    annotation = inspect.signature(quantize, eval_str=True).parameters["to"].annotation
    assert set(get_args(get_args(annotation)[0])) == {*FORMATS, "mixed"}


def test_a_state_and_an_adapter_go_into_it(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    checkpoints.save(model, tmp_path / "a.safetensors")
    state = model.initial_state(1).map(torch.Tensor.float)
    checkpoints.save_state(state, model.config, tmp_path / "state.pth")
    lora = saved(tmp_path / "lora.pth", random_lora(model))
    arguments = ["quantize", str(tmp_path / "a"), str(tmp_path / "b.safetensors"), "--format", "float32"]
    tuning = ["--state", str(tmp_path / "state.pth"), "--lora", str(lora), "--lora-alpha", "8"]
    assert main([*arguments, *tuning]) == 0
    found = checkpoints.load(tmp_path / "b.safetensors")
    expected = checkpoints.load(
        tmp_path / "a.safetensors",
        tuning=checkpoints.Tuning(state=tmp_path / "state.pth", lora=lora, lora_alpha=8),
    )
    assert found.initial_state is not None
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.safetensors", "b.safetensors"], 2, "--format"),
        (["a.safetensors", "b.safetensors", "--format", "int2"], 2, "int2"),
        (["a.safetensors", "b.gguf", "--format", "int4"], 1, "convert"),
        (["a.safetensors", "a.safetensors", "--format", "int4"], 1, "exists already"),
        (["c.safetensors", "b.safetensors", "--format", "int4"], 1, "no such file"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.save(random_model(), tmp_path / "a.safetensors")
    assert main(["quantize", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "int4", "--bits", "5"], "--bits is of --format mixed"),
        (["--format", "mixed", "--bits", "3"], "--bits is 3, but it must be from 4.5"),
        (["--format", "bfloat16", "--nearest"], "bfloat16 needs no"),
        (["--format", "int4", "--report", "a.txt"], "must end in .json, .png or .svg"),
        (["--format", "int4", "--report", "nowhere/a.json"], "no folder nowhere"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.save(random_model(), tmp_path / "a.safetensors")
    assert main(["quantize", str(tmp_path / "a"), str(tmp_path / "b.safetensors"), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_ruined_model_is_not_written_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("receptance.inference.quantizing._WINDOWS_TO_FIT", 2)
    monkeypatch.setattr("receptance.inference.quality.GREEDY_TOKENS", 5)
    monkeypatch.setattr("receptance.inference.quality.WORST_DIVERGENCE", 0.0)
    checkpoints.save(example("7", torch.float32), tmp_path / "a.safetensors")
    arguments = ["quantize", str(tmp_path / "a"), str(tmp_path / "b.safetensors"), "--format", "int4"]
    assert main(arguments) == 1
    assert "int4 ruins this model: perplexity " in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists()
    assert main([*arguments, "--force", "--report", str(tmp_path / "r.svg")]) == 0
    assert "nats a token" in capsys.readouterr().out
    assert (tmp_path / "r.json").exists()
    assert checkpoints.open_model(tmp_path / "b.safetensors").number_format == "int4"
