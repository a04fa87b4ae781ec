"""Every model at the rate of learning that suits it: none is compared at the best rate of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil

from receptance.errors import DivergenceError
from reproduction.claim import Data
from reproduction.notebook import Notebook
from reproduction.training import Budget

FACTORS = (1 / 3, 1.0, 3.0)  # of the rate of the budget: the three that are tried


def at_best_rate(
    notebook: Notebook,
    part: str,
    budget: Budget,
    trained: Callable[[Budget], Data],
    key: str,
    trial: float,
) -> Data:
    """Return what comes of training at the best of three rates, which is added as `learning_rate`.

    trained  what a budget gives; no more is asked of a rate at which it diverges
    key      of what is lowest at the best rate
    trial    the share of the steps that each rate is tried for; 1: the best trial is the training itself.
             Short trials prefer rates that are too high in the end: after a fifth of the steps, thrice the
             best one won
    """

    def run(steps: int, rate: float) -> Data | None:
        def measure() -> Data | None:
            try:
                return trained(replace(budget, steps=steps, learning_rate=rate))
            except DivergenceError:
                return None

        found: Data | None = notebook.once(f"{part}-{steps}-steps-at-{rate:.2g}", measure)
        return found and found | {"learning_rate": rate}

    tried = [run(ceil(trial * budget.steps), factor * budget.learning_rate) for factor in FACTORS]
    best = min((found for found in tried if found), key=lambda found: found[key], default=None)
    if best is not None and trial < 1:
        best = run(budget.steps, best["learning_rate"])
    if best is None:
        raise DivergenceError(f"{part} diverged at every rate up to {FACTORS[-1] * budget.learning_rate:.2g}")
    return best
