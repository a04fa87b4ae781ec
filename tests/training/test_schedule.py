from __future__ import annotations

import math

import pytest

from receptance.training import OptimizerConfig, TrainingConfig
from receptance.training.schedule import learning_rate, progress


def rate(share: float, warm_up: float = 1.0, **keys: object) -> float:
    config = OptimizerConfig(**{"learning_rate": 6e-4, "final_learning_rate": 1e-5, **keys})  # type: ignore[arg-type]
    return learning_rate(config, progress=share, warm_up=warm_up)


def test_the_rate_stays_on_the_plateau_and_ends_at_the_final_one() -> None:
    assert rate(0.0, plateau=0.25) == 6e-4
    assert rate(0.25, plateau=0.25) == 6e-4
    assert rate(0.26, plateau=0.25) < 6e-4
    assert rate(1.0, plateau=0.25) == pytest.approx(1e-5, rel=1e-12)


def test_half_way_down_the_rate_is_the_geometric_mean() -> None:
    assert rate(0.6, plateau=0.2) == pytest.approx(math.sqrt(6e-4 * 1e-5), rel=1e-12)


def test_the_rate_of_each_step_is_that_of_the_published_schedule() -> None:
    # RWKV-LM: x = clip((step - E * spe + 1) / ((N - E) * spe), 0, 1), with E of N mini-epochs of spe steps.
    epochs, constant, steps_per_epoch = 10, 3, 7
    for step in range(epochs * steps_per_epoch):
        x = (step - constant * steps_per_epoch + 1) / ((epochs - constant) * steps_per_epoch)
        published = 6e-4 * (1e-5 / 6e-4) ** min(max(x, 0.0), 1.0)
        share = (step + 1) / (epochs * steps_per_epoch)
        assert rate(share, plateau=constant / epochs) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(("start", "end"), [(1e-3, 0.0), (0.0, 1e-3)])
def test_the_rate_is_linear_where_one_end_is_zero(start: float, end: float) -> None:
    found = rate(0.75, learning_rate=start, final_learning_rate=end, plateau=0.5)
    assert found == pytest.approx((start + end) / 2, rel=1e-12)


def test_a_whole_run_may_be_plateau() -> None:
    assert rate(1.0, plateau=1.0) == 6e-4


def test_warming_up_rises_in_a_straight_line_from_a_fifth_or_as_set() -> None:
    found = [rate(0.0, step / 4) / 6e-4 for step in range(5)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], rel=1e-12)
    assert rate(0.0, 0.0, warm_up_start=0.01) == pytest.approx(6e-6, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "quarter"),
    # Of the way from 1 to 0 that is left: 1 - x, (1 + cos(pi x)) / 2, 1 - sqrt(x).
    [("linear", 0.75), ("cosine", 0.8535533905932737), ("square_root", 0.5)],
)
def test_each_schedule_falls_in_its_own_shape_from_the_plateau_to_the_end(
    schedule: str, quarter: float
) -> None:
    ends = {"learning_rate": 3.0, "final_learning_rate": 1.0, "plateau": 0.6, "schedule": schedule}
    assert rate(0.6, **ends) == 3.0
    assert rate(0.7, **ends) == pytest.approx(1 + 2 * quarter, rel=1e-12)
    assert rate(1.0, **ends) == pytest.approx(1.0, rel=1e-12)


def test_the_nearest_bound_counts() -> None:
    bounds = TrainingConfig(batch_size=1, max_steps=100, max_tokens=1000, max_minutes=2)
    assert progress(bounds, steps=10, tokens=0, seconds=0) == 0.1
    assert progress(bounds, steps=10, tokens=400, seconds=0) == 0.4
    assert progress(bounds, steps=10, tokens=400, seconds=60) == 0.5
    assert progress(bounds, steps=500, tokens=400, seconds=60) == 1.0


def test_bounds_that_are_not_given_do_not_count() -> None:
    assert progress(TrainingConfig(batch_size=1, max_steps=4), steps=1, tokens=10**9, seconds=1e9) == 0.25
