from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from receptance import kernels
from receptance.cli.main import main
from receptance.data import prepare

RECIPE = """
[run]
folder = "{run}"
tune_allocator = false
[model]
num_layers = 1
hidden_size = 16
[data]
folder = "{data}"
context = 16
[training]
batch_size = 2
max_steps = 5
dtype = "float32"
[optimizer]
learning_rate = 1e-3
final_learning_rate = 1e-4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe over a small text, whose run goes to `run` beside it."""
    source = tmp_path / "text"
    source.mkdir()
    for number in range(10):
        (source / f"{number}.txt").write_text(f"{number} green bottles\n" * 30, encoding="utf-8")
    prepare(source, tmp_path / "data", tokenizer="bytes", validation_fraction=0.2)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(run=tmp_path / "run", data=tmp_path / "data"), encoding="utf-8")
    return path


def logged_steps(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [record["step"] for record in records if record["kind"] == "training"]


def test_a_recipe_is_trained_and_the_next_command_is_said(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), "--training.max_steps=3", "--run.seed", "4"]) == 0
    run = tmp_path / "run"
    assert logged_steps(run) == [1, 2, 3]
    assert "seed = 4" in (run / "config.toml").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    for part in (
        f"Training in {run}.",
        "step 1 · loss ",
        "bits/byte",
        "tokens/s",
        " left",
        "Finished after 3 steps, 96 tokens",
        "Validation at step 3",
        f"model    {run / 'model.safetensors'}",
        f"receptance generate {run} --prompt",
    ):
        assert part in out


def test_what_the_model_writes_is_shown_and_logged(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with recipe.open("a", encoding="utf-8") as file:
        file.write('[samples]\nprompts = ["7 green", ""]\nevery = 2\nmax_tokens = 5\n')
    assert main(["train", str(recipe)]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [record for record in map(json.loads, lines) if record["kind"] == "sample"]
    assert [(sample["step"], sample["prompt"]) for sample in samples] == [
        (step, prompt) for step in (2, 4, 5) for prompt in ("7 green", "")
    ]
    assert "step 2: 7 green" in capsys.readouterr().out


def test_a_finished_run_goes_on_when_it_is_given_more_steps(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe)]) == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--training.max_steps=7"]) == 0
    assert logged_steps(tmp_path / "run") == [1, 2, 3, 4, 5, 6, 7]
    assert "Finished after 7 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--training.bacth_size=3"], "Did you mean 'training.batch_size'?"),
        (["--data.folder=nowhere"], "data.folder is nowhere, but there is no such folder or store in "),
        (["--resume"], "holds no run"),
    ],
)
def test_a_mistake_is_explained_in_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["train", str(recipe), *words]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_threads_and_allocator_are_set_as_the_recipe_says(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(kernels, "tune_allocator", lambda: calls.append("tuned"), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    words = ["--run.tune_allocator=true", "--run.threads=3", "--training.max_steps=1"]
    assert main(["train", str(recipe), *words]) == 0
    assert calls == ["tuned", 3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_run_and_says_how_to_go_on(
    recipe: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = "import sys; from receptance.cli.main import main; sys.exit(main(sys.argv[1:]))"
    run = tmp_path / "run"
    words = [sys.executable, "-c", command, "train", str(recipe), "--training.max_steps=1000000"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopping after this step" in err
    assert f"receptance train --resume {run}" in out
    done = logged_steps(run)
    assert done == list(range(1, len(done) + 1))
    more = f"--training.max_steps={len(done) + 2}"
    assert main(["train", "--resume", str(run), more]) == 0
    assert logged_steps(run) == list(range(1, len(done) + 3))
