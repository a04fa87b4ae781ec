"""`receptance bench`: a column for each number format, the same as JSON, and errors before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from receptance import checkpoints, native
from receptance.cli.main import main
from tests.inference.models import random_model

SMALL = ["--prompt-tokens", "4", "--tokens", "2", "--turns", "1", "--batch", "1", "2", "--threads", "1"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    checkpoints.save(random_model(), tmp_path / "model.safetensors", tokenizer="bytes")
    return str(tmp_path / "model.safetensors")


@pytest.mark.skipif(native.library() is None, reason="needs the native library")
def test_each_format_has_its_column(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", model, "--dtype", "float32", "int4", *SMALL]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == model
    assert next(line for line in lines if line.startswith("machine")).count("; 1 thread on cpu") == 1
    assert next(line.split() for line in lines if "int4" in line) == ["float32", "int4"]
    names = ("a prompt of 4, tokens/s", "2 prompts of 4, tokens/s", "one text, tokens/s", "2 texts, tokens/s")
    for name in (*names, "memory read, GB/s"):
        best_and_median = next(line for line in lines if line.startswith(name)).removeprefix(name).split()
        numbers = [float(cell.strip("()").replace(",", "")) for cell in best_and_median]
        assert len(numbers) == 4
        assert all(number > 0 for number in numbers)
    assert next(line for line in lines if line.startswith("one text, of that")).count("%") == 2


def test_json_holds_the_same(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", model, "--runtime", "torch", *SMALL, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["measured"]
    assert (found["runtime"], found["dtype"], found["generation"]) == ("torch", "float32", "4")
    assert (found["threads"], found["level"]) == (1, None)
    assert found["plan"]["batches"] == [1, 2]
    assert set(found["decode"]) == {"1", "2"}
    assert found["decode"]["1"]["best"] >= found["decode"]["1"]["median"] > 0
    assert found["parameters"] == random_model().num_parameters


def test_errors_of_the_other_process_are_errors_of_this_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"rubbish")
    assert main(["bench", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {path}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--turns", "0"], "error: turns is 0, but it must be at least 1."),
        (["--batch", "0"], "error: batches are (0,), but they must be numbers of texts from 1 to 1,024."),
        (["--threads", "99999"], "error: threads is 99999, but it must be from 1 to "),
    ],
)
def test_a_senseless_plan_is_refused_at_once(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "there-is-no-such-model", *arguments]) == 1
    assert capsys.readouterr().err.startswith(message)
