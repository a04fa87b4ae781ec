from __future__ import annotations

from pathlib import Path

import pytest

from receptance.checkpoints.generations import GENERATIONS
from receptance.checkpoints.stored_model import empty_model
from receptance.models import AnyModel
from receptance.training import Config, load_config
from receptance.training.optimizer import MasterAdamW
from receptance.training.session import model_config
from receptance.training.timetable import Timetable
from recipes import published

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


NAMES = sorted(path.stem for path in published.recipes())


def model(config: Config, vocabulary_size: int) -> AnyModel:
    return empty_model(model_config(config.model, vocabulary_size))


def test_the_recipes_are_those_that_the_tables_give() -> None:
    for path, text in published.recipes().items():
        assert path.read_text(encoding="utf-8") == text, "run `make recipes`"


def test_every_generation_has_recipes() -> None:
    generations = {load_config(RECIPES / f"{name}.toml").model.generation for name in NAMES}
    assert generations == set(GENERATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_a_run_that_ends_and_trains_every_group(name: str) -> None:
    config = load_config(RECIPES / f"{name}.toml")
    times = Timetable(config)
    last = times.stages[-1]
    assert (last.num_steps is None) == (not config.stages)
    assert times.progress(steps=10**9, seconds=0) == 1.0
    if config.model.initial is None:
        small = load_config(RECIPES / f"{name}.toml", ["--model.num_layers=1", "--model.hidden_size=64"])
        with_values = model(small, 8).to_empty(device="cpu")
        MasterAdamW(with_values, config.optimizer, config.groups)  # refuses a group that fits nothing


# Millions of parameters, of the model cards and papers.
PILE, WORLD = 50277, 65536
COUNTS = {
    "rwkv4-pile-169m": (PILE, 169.342464),
    "rwkv4-pile-430m": (PILE, 430.397440),
    "rwkv4-pile-1.5b": (PILE, 1515.106304),
    "rwkv4-pile-3b": (PILE, 2984.627200),
    "rwkv4-pile-7b": (PILE, 7392.649216),
    "rwkv4-pile-14b": (PILE, 14148.597760),
    "rwkv4-world-0.1b": (WORLD, 192.8),
    "rwkv4-world-7b": (WORLD, 7518.0),
    "rwkv5-world-0.1b": (WORLD, 192.8),
    "rwkv5-world-0.4b": (WORLD, 461.7),
    "rwkv5-world-1.5b": (WORLD, 1577.8),
    "rwkv5-world-3b": (WORLD, 3063.0),
    "rwkv5-world-7b": (WORLD, 7518.0),
    "rwkv6-world-0.1b": (WORLD, 197.0),
    "rwkv6-world-0.4b": (WORLD, 472.8),
    "rwkv6-world-1.6b": (WORLD, 1599.9),
    "rwkv6-world-3b": (WORLD, 3099.9),
    "rwkv6-world-7b": (WORLD, 7635.7),
    "rwkv7-world-0.1b": (WORLD, 191.03),
    "rwkv7-world-0.4b": (WORLD, 450.768),
    "rwkv7-world-1.5b": (WORLD, 1527.40),
    "rwkv7-world-2.9b": (WORLD, 2947.74),
    "rwkv7-world-7.2b": (WORLD, 7199.14),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_recipe_makes_a_model_of_the_published_number_of_parameters(name: str) -> None:
    vocabulary_size, millions = COUNTS[name]
    found = model(load_config(RECIPES / f"{name}.toml"), vocabulary_size).num_parameters / 1e6
    assert found == pytest.approx(millions, rel=1e-12 if name.startswith("rwkv4-pile") else 3e-4)


def test_the_rates_of_the_first_rwkv4_are_those_of_its_trainer() -> None:
    # RWKV-LM: 8,043 mini-epochs of 40,320 samples; 6e-4 for 361 of them, then exponentially to 1e-5.
    times = Timetable(load_config(RECIPES / "rwkv4-pile-169m.toml"))
    steps = 40_320 // 128
    for epoch in (0, 300, 361, 400, 4000, 8042):
        fall = min(max((epoch * steps - 361 * steps + 1) / ((8043 - 361) * steps), 0.0), 1.0)
        expected = 6e-4 * (1e-5 / 6e-4) ** fall
        assert times.learning_rate(epoch * steps, 0.0) == pytest.approx(expected, rel=1e-6)
    assert times.progress(steps=8043 * steps, seconds=0.0) == 1.0


def test_the_rates_of_the_pile_rwkv7_are_those_of_its_trainer() -> None:
    times = Timetable(load_config(RECIPES / "rwkv7-pile-0.1b.toml"))
    tokens_a_step = 240 * 4096
    assert times.learning_rate(0, 0.0) == pytest.approx(8e-4 * 0.01, rel=1e-9)
    half = (332_115_325_534 + 10 * tokens_a_step) // 2 // tokens_a_step
    assert times.learning_rate(half, 0.0) == pytest.approx((8e-4 + 3e-5) / 2, rel=1e-4)
    assert times.learning_rate(332_115_325_534 // tokens_a_step, 0.0) == pytest.approx(3e-5, rel=1e-6)
