"""`receptance convert` says what it did and how it was checked."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import get_args

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints.contents import FLOAT_DTYPES
from receptance.checkpoints.writers import WRITERS
from receptance.cli.convert import Dtype, Format, convert
from receptance.cli.main import main
from tests.checkpoints.files import assert_same_weights, random_model
from tests.checkpoints.tuning.adapters import random_lora, saved
from tests.checkpoints.tuning.test_tuned_state import random_state
from tests.models.examples import example


def test_it_prints_the_difference_and_both_hashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, destination = tmp_path / "a.safetensors", tmp_path / "b.pth"
    checkpoints.save(random_model(), source)
    assert main(["convert", str(source), str(destination)]) == 0
    printed = capsys.readouterr().out
    assert f"{source} (receptance, float32) -> {destination} (pth, float32)" in printed
    assert "read back equal to the bit" in printed
    assert "largest difference of a logit: 0\n" in printed
    for path in (source, destination):
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n" in printed
    assert_same_weights(checkpoints.load(destination).model, random_model())


def test_format_and_dtype_are_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints.save(random_model(), tmp_path / "a.safetensors")
    arguments = [
        "convert",
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "--format",
        "pth",
        "--dtype",
        "bfloat16",
    ]
    assert main(arguments) == 0
    assert f"{tmp_path / 'b'} (pth, bfloat16)" in capsys.readouterr().out


def test_an_error_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.pth").write_text("<html>404</html>")
    assert main(["convert", str(tmp_path / "page.pth"), str(tmp_path / "out.pth")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "web page" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("option", ["--format=onnx", "--dtype=int4"])
def test_a_choice_that_is_none_is_exit_code_2(tmp_path: Path, option: str) -> None:
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), option]) == 2


def test_the_help_names_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("SOURCE", "DESTINATION", "--format", "receptance", "pth", "transformers", "--dtype"):
        assert word in printed
    assert inspect.getdoc(convert)


def test_an_adapter_and_a_state_go_into_the_destination(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    state = random_state(model)
    checkpoints.save(model, tmp_path / "a.safetensors")
    checkpoints.save_state(state, model.config, tmp_path / "state.pth")
    adapter = saved(tmp_path / "adapter.pth", random_lora(model))
    options = ["--lora", str(adapter), "--lora-alpha", "6", "--state", str(tmp_path / "state.pth")]
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b.pth"), *options]) == 0
    tuning = checkpoints.Tuning(lora=adapter, lora_alpha=6.0)
    converted = checkpoints.load(tmp_path / "b.pth")
    assert_same_weights(converted.model, checkpoints.load(tmp_path / "a", tuning=tuning).model)
    assert converted.initial_state is not None
    assert torch.equal(converted.initial_state.wkv, state.wkv)


def test_an_adapter_alone_is_converted_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "a.pth", random_lora(example("7")))
    ours, back = tmp_path / "b.safetensors", tmp_path / "c.pth"
    assert main(["convert", str(source), str(ours), "--lora-alpha", "32"]) == 0
    printed = capsys.readouterr().out
    assert f"{source} (pth) -> {ours} (safetensors)" in printed
    assert "read back equal to the bit" in printed
    for path in (source, ours):
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n" in printed
    assert main(["convert", str(ours), str(back)]) == 0
    assert "lost: lora_alpha = 32, for which the destination has no place" in capsys.readouterr().out
    for option in (["--dtype", "bfloat16"], ["--format", "pth"], ["--state", "zero"]):
        assert main(["convert", str(source), str(tmp_path / "d.pth"), *option]) == 1
        assert "is a part of a model and stays as it is" in capsys.readouterr().err


def test_the_options_offer_all_that_can_be_written() -> None:
    assert get_args(Format) == tuple(WRITERS)
    quantizations = {name for writer in WRITERS.values() for name in writer.quantized}
    floats = {str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES}
    assert set(get_args(Dtype)) == quantizations | floats
