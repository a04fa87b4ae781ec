"""`receptance verify`: what it prints, and that it fails where a model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from receptance import checkpoints, inference, kernels, native
from receptance.cli.main import main
from tests.checkpoints.tuning.adapters import random_lora, saved
from tests.checkpoints.tuning.test_tuned_state import random_state
from tests.inference.models import random_model
from tests.models.examples import example


@pytest.fixture
def model(tmp_path: Path) -> str:
    checkpoints.save(random_model(), tmp_path / "model.safetensors", tokenizer="bytes")
    return str(tmp_path)


def test_a_right_model_passes_and_every_way_has_its_line(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", model, "--tokens", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["40", "tokens", "in", "parallel,", "beside", "…", "logits", "final", "state"]
    ways = ["one token at a time", "split in the middle", "in float64"]
    ways += ["native runtime", "native runtime, one token at a time"] if native.library() else []
    ways += [f"wkv4: {name}" for name in kernels.available("wkv4")]
    for way in ways:
        numbers = next(line for line in lines if line.startswith(way)).split()[-2:]
        assert all(float(number) < 1e-4 for number in numbers)
    assert lines[-1].startswith("Passed: the largest difference is ")


def test_json_holds_what_the_library_finds(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", model, "--text", "Hello, wörld", "--json", "--no-float64"]) == 0
    result = json.loads(capsys.readouterr().out)
    lm = inference.load(model)
    expected = inference.verify(lm.model, torch.tensor([lm.tokenizer.encode("Hello, wörld")]), float64=False)
    assert result["passed"] is True
    assert result["tokens"] == 13
    assert result["dtype"] == "float32"
    assert result["largest_logit"] == pytest.approx(expected.scale)
    assert result["tolerance"] == pytest.approx(expected.tolerance)
    assert [row["way"] for row in result["differences"]] == [row.way for row in expected.differences]


def test_a_model_that_is_wrong_is_shown_and_exits_with_1(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forgetful(
        self: object, tokens: torch.Tensor, state: object = None, *rest: object
    ) -> tuple[torch.Tensor, object]:
        return original(self, tokens, None, *rest)

    from receptance.models import RWKV4

    original = RWKV4.features
    monkeypatch.setattr(RWKV4, "features", forgetful)
    assert main(["verify", model]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("one token at a time")).endswith("too large")
    assert lines[-1].startswith("Failed: ")
    assert main(["verify", model, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_what_is_not_a_number_is_json_all_the_same(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = random_model()
    with torch.no_grad():
        wrong.ln_out.weight.fill_(3e38)
    checkpoints.save(wrong, Path(model) / "wrong.safetensors", tokenizer="bytes")
    assert main(["verify", f"{model}/wrong", "--json"]) == 1
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result["largest_logit"] is None
    assert main(["verify", f"{model}/wrong"]) == 1
    assert "nan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--text", "a", "--tokens", "5"), "--text and --tokens were both given"),
        (("--tokens", "1"), "--tokens is 1, but it takes at least 2"),
        (("--tokens", "-5"), "--tokens is -5"),
        (("--text", "a"), "at least 2 tokens, but there are 1"),
        (("--text", ""), "at least 2 tokens, but there are 0"),
        (("--device", "nonsense"), "device 'nonsense' cannot be used"),
    ],
)
def test_what_cannot_be_done_is_explained(
    model: str, arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", model, *arguments]) == 1
    assert complaint in capsys.readouterr().err


@pytest.fixture
def other(tmp_path: Path) -> str:
    checkpoints.save(random_model(), tmp_path / "other.pth", format="pth")
    return str(tmp_path / "other.pth")


def test_two_files_of_one_model_are_the_same(
    model: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", model, "--against", other]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "model.safetensors (receptance, float32) beside" in lines[0]
    assert lines[1].split() == ["settings", "the", "same"]
    assert "hold the same values" in lines[2]
    assert lines[3].endswith("the same after 100% of 32 tokens")
    assert lines[-1].startswith("Passed: ")


def test_another_model_is_told_by_the_weight_that_differs(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = random_model()
    with torch.no_grad():
        wrong.ln_out.bias += 0.5
    checkpoints.save(wrong, tmp_path / "wrong.pth", format="pth")
    assert main(["verify", model, "--against", str(tmp_path / "wrong")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "1 of" in lines[2]
    assert "ln_out.bias by up to 0.5" in lines[2]
    assert lines[-1].startswith("Failed: ")
    assert main(["verify", model, "--against", str(tmp_path / "wrong"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["unequal"] == {"ln_out.bias": pytest.approx(0.5)}
    assert found["passed"] is False
    assert main(["verify", model, "--against", str(tmp_path / "wrong"), "--tolerance", "100"]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tolerance", "-1"), "--tolerance is -1.0"),
        (("--tolerance", "nan"), "--tolerance is nan"),
        (("--text", "abc"), "--against compares two files as they are"),
        (("--dtype", "bfloat16"), "--against compares two files as they are"),
    ],
)
def test_what_makes_no_sense_with_two_files_is_refused(
    model: str, other: str, arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", model, "--against", other, *arguments]) == 1
    assert complaint in capsys.readouterr().err


def test_a_model_with_what_lies_on_top_of_it_is_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seven = example("7", torch.float32)
    checkpoints.save(seven, tmp_path / "model.safetensors", state=random_state(seven))
    adapter = str(saved(tmp_path / "adapter.pth", random_lora(seven)))
    assert main(["verify", str(tmp_path), "--tokens", "30", "--lora", adapter, "--lora-alpha", "2"]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path), "--against", str(tmp_path), "--state", "zero"]) == 1
    assert "leave out what changes how one is read" in capsys.readouterr().err
