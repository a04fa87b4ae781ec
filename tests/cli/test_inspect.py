from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from receptance import checkpoints, inspection, load
from receptance.cli.main import main
from receptance.models import RWKV7, RWKV7Config
from tests.checkpoints.tuning.test_tuned_state import random_state
from tests.inference.models import random_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    checkpoints.save(random_model(), tmp_path / "model.safetensors", tokenizer="bytes")
    return str(tmp_path / "model.safetensors")


def test_the_page_is_written_and_its_main_figures_told(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", model, "--text", "Hello, <b>wörld</b>"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "inspection.html"
    assert [line.split()[0] for line in lines[1:]] == [
        "model",
        "tokens",
        "surprise",
        "influence",
        "half-lives",
    ]
    page = (tmp_path / "inspection.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<b>w" not in page


def test_json_holds_what_the_library_finds(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("Hello, wörld", encoding="utf-8")
    page = tmp_path / "page.html"
    assert main(["inspect", model, "--file", str(tmp_path / "text.txt"), "--json", "-o", str(page)]) == 0
    lm = load(model, runtime="auto")
    found = inspection.inspect(lm, torch.tensor(lm.tokenizer.encode("Hello, wörld")))
    assert json.loads(capsys.readouterr().out) == inspection.as_report(found, lm, "model")
    assert page.is_file()


def test_of_a_long_text_the_end_is_shown_and_that_is_said(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["inspect", model, "--text", "abc" * 400, "--tokens", "20", "--output", str(page)]) == 0
    assert "the last 20, after 1,180 that are remembered" in capsys.readouterr().out
    assert "The 1,180 tokens before were read and are remembered." in page.read_text(encoding="utf-8")


def test_a_tuned_state_is_what_the_text_starts_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seven = RWKV7(RWKV7Config(vocabulary_size=256, num_layers=2, hidden_size=16, head_size=4))
    checkpoints.save(seven, tmp_path / "model.safetensors", state=random_state(seven), tokenizer="bytes")
    sizes = []
    for more in ((), ("--state", "zero")):
        assert main(["inspect", str(tmp_path), "--text", "\x01\x02\x03", "--json", *more]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["memory"]["norm"][0][0][0])
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "Give either --text or --file"),
        (("--text", "a", "--file", "b"), "Give either --text or --file"),
        (("--text", "a"), "at least 2 tokens, but there are 1"),
        (("--text", ""), "at least 2 tokens, but there are 0"),
        (("--text", "abc", "--tokens", "5000"), "5,000 tokens cannot be inspected"),
        (("--file", "nowhere.txt"), "nowhere.txt: does not exist"),
        (("--text", "abc", "--output", "nowhere/page.html"), "there is no folder nowhere to write to"),
        (("--text", "abc", "--output", "page.png"), "--output is page.png, but the page is an .html file"),
    ],
)
def test_what_cannot_be_done_is_explained(
    model: str, arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", model, *arguments]) == 1
    assert complaint in capsys.readouterr().err


def test_a_file_that_is_no_text_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_bytes(b"abc\xff")
    assert main(["inspect", model, "--file", str(tmp_path / "text.txt")]) == 1
    assert "byte 3 is not UTF-8" in capsys.readouterr().err
