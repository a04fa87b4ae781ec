"""Each model is trained at the rate that suits it, and keeps nothing of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from reproduction.claim import Data
from reproduction.notebook import Notebook
from reproduction.rates import at_best_rate
from reproduction.training import Budget

from receptance.errors import DivergenceError

BUDGET = Budget(steps=10, batch=1, context=1, learning_rate=0.03)


def valley(lowest: float, calls: list[tuple[int, float]]) -> Callable[[Budget], Data]:
    """Return a training that ends best at one rate, and diverges at a large one."""

    def trained(budget: Budget) -> Data:
        calls.append((budget.steps, round(budget.learning_rate, 4)))
        if budget.learning_rate > 0.05:
            raise DivergenceError("too fast")
        return {"nats": abs(budget.learning_rate - lowest)}

    return trained


@pytest.mark.parametrize(("lowest", "best"), [(0.02, 0.03), (0.0, 0.01)])
def test_the_rate_with_the_lowest_loss_counts(tmp_path: Path, lowest: float, best: float) -> None:
    calls: list[tuple[int, float]] = []
    found = at_best_rate(Notebook(tmp_path, BUDGET), "part", BUDGET, valley(lowest, calls), "nats", 1)
    assert found == {"nats": pytest.approx(abs(best - lowest)), "learning_rate": pytest.approx(best)}
    assert calls == [(10, 0.01), (10, 0.03), (10, 0.09)]


def test_after_shorter_trials_the_best_is_trained_whole_and_none_again(tmp_path: Path) -> None:
    calls: list[tuple[int, float]] = []
    for _ in range(2):
        at_best_rate(Notebook(tmp_path, BUDGET), "part", BUDGET, valley(0.0, calls), "nats", 0.2)
    assert calls == [(2, 0.01), (2, 0.03), (2, 0.09), (10, 0.01)]


def test_a_model_that_diverges_at_every_rate_says_so(tmp_path: Path) -> None:
    fast = Budget(steps=10, batch=1, context=1, learning_rate=3.0)
    with pytest.raises(DivergenceError, match="part diverged at every rate up to 9"):
        at_best_rate(Notebook(tmp_path, fast), "part", fast, valley(0.0, []), "nats", 1)
