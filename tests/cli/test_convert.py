"""`receptance convert` says what it did and how it was checked."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import pytest

from receptance import checkpoints
from receptance.cli.convert import convert
from receptance.cli.main import main
from tests.checkpoints.files import assert_same_weights, random_model


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
