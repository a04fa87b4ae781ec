"""When a run saves, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from receptance.training.save_times import SaveTimes


def test_a_rhythm_of_steps_is_kept_whatever_the_clock_says() -> None:
    times = SaveTimes(every=5, share=0.0, now=0.0)
    assert [step for step in range(1, 21) if times.is_due(step, now=1e9)] == [5, 10, 15, 20]


def test_without_a_rhythm_or_a_share_nothing_is_due() -> None:
    times = SaveTimes(every=0, share=0.0, now=0.0)
    assert not any(times.is_due(step, now=1e9) for step in range(1, 100))


@pytest.mark.parametrize("cost", [0.01, 0.2, 15.0])
@pytest.mark.parametrize("share", [0.003, 0.01, 0.1])
def test_further_snapshots_take_their_share_of_the_time_and_no_more(cost: float, share: float) -> None:
    now, saving, step = 100.0, 0.0, 0
    times = SaveTimes(every=0, share=share, now=now)
    while now < 100_100:
        step, now = step + 1, now + 0.5
        if times.is_due(step, now):
            began, now = now, now + cost
            saving += cost
            times.saved(began, now)
    assert saving / 100_000 <= share + 1e-3
    if cost / share > 5:  # a step is not so long that it decides
        assert saving / 100_000 >= 0.8 * share


def lost_share(
    *, hours: int, minutes_between_kills: float, step: float, save: float, restart: float
) -> float:
    """Return the share of the time that a run loses to its snapshots and to being killed, by the defaults."""
    now = saved_work = work = 0.0
    kill_at = 60 * minutes_between_kills
    steps = 0
    times = SaveTimes(every=1000, share=0.01, now=now)
    while now < 3600 * hours:
        if now + step >= kill_at:
            now, kill_at = kill_at + restart, kill_at + 60 * minutes_between_kills
            work = saved_work
            times = SaveTimes(every=1000, share=0.01, now=now)
            continue
        now, work, steps = now + step, work + step, steps + 1
        if times.is_due(steps, now) and now + save < kill_at:
            times.saved(now, now + save)
            now += save
            saved_work = work
    return 1 - work / now


def test_t9_a_run_that_is_killed_every_ten_minutes_spends_97_percent_of_its_time_well(
    record_property: Callable[[str, object], None],
) -> None:
    lost = lost_share(hours=100, minutes_between_kills=10, step=0.5, save=0.1, restart=6.0)
    record_property("figure", f"T9 one kill in 10 minutes: {1 - lost:.2%} of the time is training (>= 97 %)")
    assert lost <= 0.03
