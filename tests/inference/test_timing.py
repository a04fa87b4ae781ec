"""Cases take turns, and what is counted is what ran."""

from __future__ import annotations

import time

from receptance.inference.timing import SECONDS_A_TURN, take_turns


def test_cases_take_turns_and_none_is_left_out() -> None:
    order: list[str] = []

    def case(name: str) -> None:
        order.append(name)
        time.sleep(SECONDS_A_TURN)

    turns: list[int] = []
    taken = take_turns({name: lambda name=name: case(name) for name in "ab"}, 3, turns.append)
    assert "".join(order) == "aabb" + "ab" * 2  # the first run of all warms up
    assert {name: len(times) for name, times in taken.items()} == {"a": 3, "b": 3}
    assert all(seconds >= SECONDS_A_TURN for times in taken.values() for seconds in times)
    assert turns == [0, 1, 2]


def test_what_is_short_is_repeated_until_the_turn_is_over() -> None:
    runs: list[float] = []
    taken = take_turns({"short": lambda: runs.append(time.perf_counter())}, 2)["short"]
    assert len(taken) == len(runs) - 2  # one run a turn is not counted
    assert runs[-1] - runs[0] >= 2 * SECONDS_A_TURN * 0.9
