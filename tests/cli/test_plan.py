from __future__ import annotations

import json
from pathlib import Path

import pytest

from receptance.cli.main import main

RECIPE = """
[run]
folder = "run"
[model]
generation = "7"
num_layers = 2
hidden_size = 64
vocabulary_size = 256
[data]
folder = "nothing"
context = 64
[training]
batch_size = 2
max_steps = 10
[optimizer]
learning_rate = 1e-3
final_learning_rate = 1e-4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return str(tmp_path / "recipe.toml")


def test_a_plan_needs_no_text_and_says_whether_the_run_fits(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", recipe, "--flops", "1e12", "--memory", "1e12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 10 * 2 * 64
    assert found["fits"]
    memory = found["stages"][0]["memory"]
    assert memory.pop("peak") == sum(memory.values()) == found["peak"]
    assert main(["plan", recipe, "--flops", "1e12", "--memory", "1e6"]) == 0
    text = capsys.readouterr().out
    assert "It does not fit" in text
    assert "training.activation_checkpointing" in text


def test_a_number_that_makes_no_sense_is_named(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--memory", "0"]) == 1
    assert "--memory is 0.0, but it must be above 0" in capsys.readouterr().err
