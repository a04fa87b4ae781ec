from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from receptance.models import RWKV7Config
from receptance.training import step_time
from receptance.training.timetable import Timetable
from tests.training.conftest import MakeConfig


def test_the_step_is_put_together_from_layers_batches_and_one_update(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One layer reads for 5 seconds and is updated in 0.5, two take 7 and 0.75, for a quarter of the batch.
    monkeypatch.setattr(
        step_time,
        "_step",
        lambda _, sizes, *more: lambda: (3 + 2 * sizes.num_layers, 0.25 + 0.25 * sizes.num_layers),
    )
    monkeypatch.setattr(step_time, "_SECONDS", 0.0)
    monkeypatch.setattr(step_time, "_part", lambda *more: (2, 12))
    config = make_config(batch_size=4, context=24, accumulation=3)
    sizes = RWKV7Config(vocabulary_size=64, num_layers=10, hidden_size=64)
    (stage,) = Timetable(config).stages
    once = step_time.measured_seconds(config, stage, sizes)
    assert once == pytest.approx(3 * 4 * (3 + 2 * 10) + 0.25 + 0.25 * 10)
    in_chunks = replace(config, training=replace(config.training, chunk=8))
    assert step_time.measured_seconds(in_chunks, stage, sizes) > once  # each chunk is read twice


def test_turns_in_which_the_machine_was_slow_do_not_count(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {1, 4}  # the turns; the first one warms up

    def step(_: object, sizes: RWKV7Config, *more: object) -> Callable[[], tuple[float, float]]:
        turns = itertools.count()
        return lambda: ((50 if next(turns) in slow else 1) * (1 + sizes.num_layers), 0.0)

    monkeypatch.setattr(step_time, "_step", step)
    monkeypatch.setattr(step_time, "_part", lambda *more: (2, 24))
    monkeypatch.setattr(step_time, "_SECONDS", 0.0)
    monkeypatch.setattr(step_time, "_TURNS", 5)
    config = make_config(batch_size=2, context=24)
    (stage,) = Timetable(config).stages
    sizes = RWKV7Config(vocabulary_size=64, num_layers=10, hidden_size=64)
    assert step_time.measured_seconds(config, stage, sizes) == pytest.approx(1 + 10)


def test_a_batch_that_is_read_soon_is_measured_whole(make_config: MakeConfig) -> None:
    config = make_config(batch_size=2, context=24)
    (stage,) = Timetable(config).stages
    sizes = RWKV7Config(vocabulary_size=64, num_layers=1, hidden_size=64)
    assert step_time._part(config, stage, sizes) == (2, 24)
