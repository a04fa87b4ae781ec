"""How long things take: cases take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Run = Callable[[], object]
SECONDS_A_TURN = 0.05


def seconds(cases: Mapping[str, Run], turns: int) -> dict[str, list[float]]:
    """Return the durations of the runs of each case; the first run of a turn is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(turns):
        for name, run in cases.items():
            run()
            begin = time.perf_counter()
            while not taken[name] or time.perf_counter() - begin < SECONDS_A_TURN:
                start = time.perf_counter()
                run()
                taken[name].append(time.perf_counter() - start)
                if taken[name][-1] > SECONDS_A_TURN:
                    break
    return taken


def milliseconds(taken: list[float]) -> list[str]:
    """Return the cells for best and median."""
    return [
        f"{1e3 * x:.3g}" if x < 0.1 else f"{1e3 * x:,.0f}" for x in (min(taken), statistics.median(taken))
    ]


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
