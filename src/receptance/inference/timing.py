"""How long things take: cases take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Run = Callable[[], object]
SECONDS_A_TURN = 0.05  # a case is repeated for so long; what takes longer runs once


def take_turns(
    cases: Mapping[str, Run], turns: int, report: Callable[[int], None] = lambda turn: None
) -> dict[str, list[float]]:
    """Return the seconds of each run of each case, at least one in every turn; `report` is told each turn.

    The first run of all is not counted, nor that of a turn in which several follow: the cases before it have
    left other things in the caches.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(turns):
        report(turn)
        for name, run in cases.items():
            if turn == 0 or taken[name][-1] < SECONDS_A_TURN:
                run()
            begin = time.perf_counter()
            end = begin
            while end == begin or end - begin < SECONDS_A_TURN:
                start = time.perf_counter()
                run()
                end = time.perf_counter()
                taken[name].append(end - start)
    return taken
