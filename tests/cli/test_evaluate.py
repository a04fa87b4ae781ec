"""`receptance evaluate`: tables, JSON, interruptions, and errors before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from receptance import checkpoints
from receptance.cli.main import main
from receptance.data import prepare
from receptance.evaluation import Encoding, Result, answers, questions
from receptance.inference import load
from tests.inference.models import random_model

ROWS = [
    {"goal": f"goal {number}", "sol1": "this", "sol2": "that", "label": number % 2} for number in range(6)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("one", "two")):
        checkpoints.save(random_model(seed=seed), tmp_path / f"{name}.safetensors", tokenizer="bytes")
    (tmp_path / "piqa.validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "lambada_openai.test.jsonl").write_text('{"text": "a b c"}\n{"text": "d e f"}\n')
    (tmp_path / "text.txt").write_text("A text of some thirty-odd bytes.")
    return tmp_path


def run(folder: Path, *arguments: str, models: tuple[str, ...] = ("one", "two")) -> int:
    paths = [str(folder / f"{name}.safetensors") for name in models]
    return main(["evaluate", *paths, "--data", str(folder), *arguments])


def test_models_stand_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = ("--tasks", "piqa,lambada", "--text", str(folder / "text.txt"))
    assert run(folder, *tasks, "--by-position", "16", "--runtime", "torch") == 0
    out, err = capsys.readouterr()
    assert err == ""
    tables = [table.splitlines() for table in out.split("\n\n")]
    assert tables[0][0].split() == ["items", "one.safetensors", "two.safetensors"]
    assert [line.split()[:3] for line in tables[0][1:4]] == [
        ["piqa", "acc", "6"],
        ["piqa", "acc_norm", "6"],
        ["lambada", "acc", "2"],
    ]
    lm = load(folder / "two.safetensors")
    items = questions("piqa", folder).items
    acc = Result(items, {"two": answers(lm, items, Encoding(lm.tokenizer))}).estimate("two", "acc")
    assert tables[0][1].endswith(f"{100 * acc.value:.2f} % ({100 * acc.low:.2f} to {100 * acc.high:.2f})")
    assert tables[1][0].split() == ["beside", "one.safetensors", "two.safetensors"]
    assert " times (" in next(line for line in tables[1] if "perplexity" in line)
    assert [line.split("  ")[0] for line in tables[2][1:]] == ["1", "2", "3 to 4", "5 to 8", "9 to 16"]


def test_an_evaluation_that_was_cut_off_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder / "results.json"
    command = ("--tasks", "piqa", "lambada", "--output", str(output), "--per-item")
    assert run(folder, *command, "--limit", "2", models=("one",)) == 0
    kept = folder / "results.answers.jsonl"
    before = kept.read_bytes()
    assert len(before.splitlines()) == 4
    assert run(folder, *command) == 0
    assert kept.read_bytes().startswith(before)
    assert len(kept.read_bytes().splitlines()) == 16
    first = output.read_bytes()
    monkeypatch.setattr("receptance.evaluation.answering.score", lambda *_, **__: iter(()))
    assert run(folder, *command) == 0
    assert output.read_bytes() == first
    found = json.loads(first)
    assert found["results"]["piqa"]["source"] == "piqa.validation.jsonl"
    assert len(found["results"]["piqa"]["per_item"]) == 6
    assert list(found["models"]) == [str(folder / f"{name}.safetensors") for name in ("one", "two")]
    capsys.readouterr()
    assert run(folder, *command, "--json") == 0
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to evaluate"),
        (["--tasks", "pica"], "there is no task 'pica'"),
        (["--tasks", "sciq"], "sciq.test.jsonl: there is no such file"),
        (["--tasks", "piqa", "--output", "results.txt"], "--output results.txt: it must end in .json"),
        (["--tasks", "piqa", "--per-item"], "--per-item writes to --output"),
        (["--tasks", "piqa", "--stride", "4"], "--stride is of --window"),
        (["--tasks", "piqa", "--by-position", "4"], "--by-position is of a --text"),
        (["--text", "pyproject.toml", "--window", "4", "--stride", "5"], "the stride of the windows is 5"),
        (["--tasks", "piqa", "--batch-size", "0"], "batch_size is 0"),
        (["--tasks", "piqa", "--limit", "0"], "limit 0"),
        (
            ["--text", "pyproject.toml", "--by-position", "1000"],
            "--by-position is 1,000, but it must be a power",
        ),
        (["--text", "pyproject.toml", "--by-position", "0"], "--by-position is 0, but it must be a power"),
        (["--text", "LICENSE", "--by-position", "1048576"], "LICENSE: no text in it has 1,048,576 tokens"),
        (["--text", "pyproject.toml", "--window", "0"], "the size of the windows is 0"),
        (["--text", "pyproject.toml", "--limit", "-1"], "limit is -1, but it counts documents"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *arguments, models=("one",)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_store_is_asked_of_models_that_share_its_tokenizer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(folder / "text.txt", folder / "data", tokenizer="bytes", validation_fraction=0)
    store = ("--text", str(folder / "data" / "train"), "--by-position", "16")
    assert run(folder, *store, "--json") == 0
    tokens = json.loads(capsys.readouterr().out)
    assert run(folder, "--text", str(folder / "text.txt"), "--by-position", "16", "--json") == 0
    text = json.loads(capsys.readouterr().out)
    for one, other in zip(tokens["results"].values(), text["results"].values(), strict=True):
        for ours, others in zip(one["models"].values(), other["models"].values(), strict=True):
            assert ours == {name: others[name] for name in others if name != "word_perplexity"}
            assert "bits_per_byte" in ours
    assert list(tokens["by_position"].values()) == list(text["by_position"].values())
    world = random_model(vocabulary_size=65536)
    checkpoints.save(world, folder / "two.safetensors", tokenizer="world")
    assert run(folder, *store) == 1
    assert "do not mean what those of bytes do: the models must share one" in capsys.readouterr().err
    assert run(folder, "--text", str(folder / "text.txt")) == 0
