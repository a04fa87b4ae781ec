"""`receptance info`: what it says of an installation and of a model, for readers and for programs."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import receptance
from receptance import checkpoints, kernels, native
from receptance.cli.main import main
from tests.checkpoints.tuning.test_tuned_state import random_state
from tests.inference.models import random_model
from tests.models.examples import EXAMPLES, example


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["info", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(info(capsys, "--json"))
    assert facts["version"] == receptance.__version__
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == torch.__version__
    assert facts["devices"][0] == "cpu"
    assert facts["native_levels"] == list(native.levels())
    shown = info(capsys)
    assert shown.startswith(f"receptance {receptance.__version__}\n")
    assert f"torch           {torch.__version__}, {torch.get_num_threads()} threads\n" in shown


def test_each_implementation_is_chosen_available_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(info(capsys, "--json"))["kernels"]
    operators = {row["operator"] for row in rows}
    assert "wkv4" in operators
    for operator in operators:
        status = {row["implementation"]: row["status"] for row in rows if row["operator"] == operator}
        usable = [name for name, word in status.items() if word != "unavailable"]
        assert usable == kernels.available(operator)
        assert [status[name] for name in usable] == ["chosen"] + ["available"] * (len(usable) - 1)
        assert status["reference"] != "unavailable"


def test_without_the_native_library_it_says_what_is_missing_and_what_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "_load", lambda: (None, "the native library is not built: no compiler"))
    facts = json.loads(info(capsys, "--json"))
    assert facts["native_problem"] == "the native library is not built: no compiler"
    assert facts["native_level"] is None
    native_rows = [row for row in facts["kernels"] if row["implementation"] == "native"]
    assert native_rows
    assert all(row["status"] == "unavailable" and "not built" in row["reason"] for row in native_rows)
    assert "native library  the native library is not built: no compiler\n" in info(capsys)


def test_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    checkpoints.save(random_model(dtype=torch.bfloat16), path, tokenizer="bytes", metadata={"step": "7"})
    facts = json.loads(info(capsys, str(tmp_path), "--json"))
    # By hand: 3 layers of 32 channels with a feed-forward of 128, and 256 tokens.
    vectors = 2 * 64 + 3 * (2 * 64 + 5 * 32 + 2 * 32)
    matrices = 2 * 256 * 32 + 3 * (4 * 32 * 32 + 32 * 32 + 2 * 32 * 128)
    assert facts["generation"] == "4"
    assert facts["config"]["feed_forward_size"] == 128
    assert facts["parameters"] == vectors + matrices
    assert facts["weight_bytes"] == 4 * vectors + 2 * matrices
    assert facts["state_bytes"] == 3 * 32 * (2 * 2 + 3 * 4)
    assert facts["file_bytes"] == path.stat().st_size
    assert facts["dtype"] == "bfloat16"
    assert facts["tokenizer"] == "bytes"
    assert facts["format"] == "receptance"
    assert facts["metadata"] == {"step": "7"}
    shown = info(capsys, str(tmp_path))
    for line in (
        str(path),
        "generation          RWKV-4",
        "feed forward size   128",
        "parameters          57,504",
        "memory              114.6 KiB of weights (bfloat16), 1.5 KiB of state for each text",
        "tokenizer           bytes",
        "metadata            step=7",
    ):
        assert f"{line}\n" in shown


@pytest.mark.parametrize("generation", sorted(EXAMPLES))
def test_a_model_of_every_generation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], generation: str
) -> None:
    path = tmp_path / "model.safetensors"
    model = example(generation, torch.float32)
    checkpoints.save(model, path, tokenizer="bytes")
    shown = info(capsys, str(path))
    assert f"RWKV-{generation[0]}\n" in shown
    facts = json.loads(info(capsys, str(path), "--json"))
    assert facts["parameters"] == model.num_parameters
    assert facts["config"] == asdict(model.config)


def test_a_model_without_a_tokenizer_is_described_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.save(random_model(vocabulary_size=300), tmp_path / "model.safetensors")
    facts = json.loads(info(capsys, str(tmp_path), "--json"))
    assert facts["tokenizer"] is None
    assert "no published one has 300 rows" in facts["tokenizer_problem"]
    assert "tokenizer           none: " in info(capsys, str(tmp_path))


def test_what_a_file_says_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoints.save(
        random_model(), path, tokenizer="bytes", metadata={"name": "\x1b]0;owned\x07[bold]x[/bold]"}
    )
    assert "name=␛]0;owned␇[bold]x[/bold]\n" in info(capsys, str(path))


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    assert main(["info", str(path)]) == 1
    assert capsys.readouterr().err == f"error: {path}: it is empty (0 bytes).\n"


def test_a_model_that_carries_a_tuned_state_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seven = example("7", torch.float32)
    checkpoints.save(seven, tmp_path / "a.safetensors", state=random_state(seven))
    checkpoints.save(seven, tmp_path / "b.safetensors")
    shown = info(capsys, str(tmp_path / "a"))
    assert re.search(r"^texts start from +a tuned state that the file carries$", shown, re.MULTILINE)
    assert "tuned state" not in info(capsys, str(tmp_path / "b"))
    assert json.loads(info(capsys, str(tmp_path / "a"), "--json"))["has_tuned_state"] is True
