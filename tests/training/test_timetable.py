from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receptance.errors import ConfigError
from receptance.training import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    StageConfig,
    TrainingConfig,
)
from receptance.training.timetable import Timetable


def config(
    *stages: StageConfig,
    optimizer: dict[str, object] | None = None,
    context: int = 10,
    **training: object,
) -> Config:
    rates = {"learning_rate": 1.0, "final_learning_rate": 0.1, "schedule": "linear"}
    return Config(
        run=RunConfig(folder=Path("runs/x")),
        model=ModelConfig(num_layers=1, hidden_size=8),
        data=DataConfig(folder=Path("data"), context=context),
        training=TrainingConfig(**{"batch_size": 2, "accumulation": 3, **training}),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(**{**rates, **(optimizer or {})}),  # type: ignore[arg-type]
        stages=stages,
    )


def test_without_stages_every_step_reads_as_much() -> None:
    times = Timetable(config(max_steps=8))
    assert [times.tokens_after(steps) for steps in (0, 1, 8)] == [0, 60, 480]
    assert list(times.stage(5).batches(5, rank=0, world_size=1)) == [(30, 2), (32, 2), (34, 2)]
    assert times.progress(steps=6, seconds=1e9) == 0.75


STAGES = (
    StageConfig(max_tokens=100),  # 60 tokens a step: two steps
    StageConfig(max_steps=2, batch_size=4),  # 120 tokens a step: a larger batch of the same samples
    StageConfig(max_steps=3, context=20, batch_size=1),  # 60 tokens a step
    StageConfig(max_steps=1),
)


def test_stages_follow_one_another_and_read_no_sample_twice() -> None:
    times = Timetable(config(*STAGES))
    assert [times.stage(step).context for step in range(8)] == [10] * 4 + [20] * 3 + [10]
    assert [times.tokens_after(steps) for steps in range(9)] == [0, 60, 120, 240, 360, 420, 480, 540, 600]
    read: dict[int, list[int]] = {10: [], 20: []}
    for step in range(8):
        stage = times.stage(step)
        for first, count in stage.batches(step, rank=0, world_size=1):
            read[stage.context] += range(first, first + count)
    assert read == {10: list(range(42)), 20: list(range(9))}


@given(
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 9),
    world_size=st.integers(1, 9),
    step=st.integers(0, 5),
)
def test_processes_share_the_samples_of_a_step_evenly_and_in_order(
    batch_size: int, accumulation: int, world_size: int, step: int
) -> None:
    stage = Timetable(config(max_steps=8, batch_size=batch_size, accumulation=accumulation)).stage(step)
    shares = [list(stage.batches(step, rank=rank, world_size=world_size)) for rank in range(world_size)]
    samples = [sample for share in shares for first, count in share for sample in range(first, first + count)]
    per_step = batch_size * accumulation
    assert samples == list(range(step * per_step, (step + 1) * per_step))
    sizes = [sum(count for _, count in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(count <= batch_size for share in shares for _, count in share)


def test_a_step_of_fewer_samples_than_processes_is_refused() -> None:
    times = Timetable(config(*STAGES))
    times.check_shares(3)
    with pytest.raises(ConfigError, match="is 3 samples a step, but 4 processes"):
        times.check_shares(4)


def test_a_run_in_stages_ends_with_its_last_stage_or_at_a_bound_of_its_own() -> None:
    assert [Timetable(config(*STAGES)).progress(steps=n, seconds=0) for n in (2, 8)] == [0.2, 1.0]
    assert Timetable(config(*STAGES, max_steps=4)).progress(steps=4, seconds=0) == 1.0
    assert Timetable(config(*STAGES, max_minutes=1.0)).progress(steps=2, seconds=30) == 0.5


def test_stages_share_the_schedule_of_the_run_by_tokens() -> None:
    times = Timetable(config(*STAGES))
    for step in range(8):
        expected = 1.0 - 0.9 * times.tokens_after(step + 1) / 600
        assert times.learning_rate(step, 0.0) == pytest.approx(expected, rel=1e-12)


def test_a_stage_with_rates_of_its_own_has_its_own_schedule() -> None:
    stages = (
        StageConfig(max_steps=4, plateau=0.5),
        StageConfig(max_steps=2, context=20, learning_rate=0.05, final_learning_rate=0.01),
    )
    times = Timetable(config(*stages))
    assert [times.learning_rate(step, 0.0) for step in range(6)] == pytest.approx(
        [1.0, 1.0, 0.55, 0.1, 0.03, 0.01], rel=1e-12
    )


def test_the_cosine_is_that_of_the_published_trainer_with_its_warm_up() -> None:
    # RWKV-LM: progress = (tokens - warm) / (all - warm), with the tokens that were read before the step.
    warm, steps = 10, 200
    optimizer = {"schedule": "cosine", "warm_up_steps": warm, "warm_up_start": 0.01}
    times = Timetable(config(max_steps=steps, optimizer=optimizer))
    for step in range(steps):
        share = min(max((step - warm) / (steps - warm), 0.0), 1.0)
        published = 0.5 + 0.1 / 2 + (0.5 - 0.1 / 2) * math.cos(math.pi * share)
        published *= 0.01 + 0.99 * step / warm if step < warm else 1.0
        assert times.learning_rate(step, 0.0) == pytest.approx(published, rel=1e-12)


def test_two_timetables_agree_up_to_the_first_step_that_reads_otherwise() -> None:
    times = Timetable(config(*STAGES))
    longer = Timetable(config(*STAGES[:-1], StageConfig(max_steps=5, batch_size=7)))
    assert longer.read_alike(times, 7)
    assert not longer.read_alike(times, 8)
    assert Timetable(config(max_steps=9)).read_alike(times, 2)
    assert not Timetable(config(max_steps=9)).read_alike(times, 3)


@pytest.mark.parametrize("stages", [(), STAGES])
def test_a_warm_up_in_tokens_is_one_in_steps(stages: tuple[StageConfig, ...]) -> None:
    in_tokens = Timetable(config(*stages, optimizer={"warm_up_tokens": 150}, max_steps=8))
    in_steps = Timetable(config(*stages, optimizer={"warm_up_steps": 3}, max_steps=8))
    rates = [[times.learning_rate(step, 0.0) for step in range(8)] for times in (in_tokens, in_steps)]
    assert rates[0] == rates[1]
    assert rates[0][:3] == pytest.approx([0.2, 0.2 + 0.8 / 3, 0.2 + 0.8 * 2 / 3], rel=1e-12)
