"""How an evaluation looks on a terminal: figures with their intervals, models side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from receptance.cli import terminal

if TYPE_CHECKING:
    from receptance.evaluation import Estimate, PositionLoss, Result

MOST_GROUPS = 12


def print_results(results: Mapping[str, Result]) -> None:
    """Print a row for each figure, and a column for each model; then the others beside the first."""
    models = list(next(iter(results.values())).answers)
    names = _short(models)
    rows, changes = [], []
    for task, result in ((Path(name).name, result) for name, result in results.items()):
        for metric in result.metrics:
            figures = [result.estimate(model, metric) for model in models]
            rows.append(
                (task, metric, f"{len(result.items):,}", *(_figure(metric, each) for each in figures))
            )
            beside = [result.comparison(model, models[0], metric) for model in models[1:]]
            changes.append((task, metric, *(_comparison(metric, each) for each in beside)))
    terminal.print_table(["", "", "items", *names], rows, numbers=["items"])
    if len(models) > 1:
        print()
        terminal.print_table([f"beside {names[0]}", "", *names[1:]], changes)
    for task, result in results.items():
        _print_groups(task, result, names)


def _print_groups(task: str, result: Result, names: Sequence[str]) -> None:
    """Print a row for each group of a task that has a few, such as lengths; all are in the JSON."""
    metric = result.metrics[0]
    groups = [result.by_group(model, metric) for model in result.answers]
    if 1 < len(groups[0]) <= MOST_GROUPS:
        print()
        rows = [(group, *(_figure(metric, each[group]) for each in groups)) for group in groups[0]]
        terminal.print_table([f"{task}, {metric}", *names], rows)


def print_positions(positions: Mapping[str, Mapping[str, Sequence[PositionLoss]]]) -> None:
    """Print the loss of each model by the position of the token."""
    for path, losses in positions.items():
        print()
        first = next(iter(losses.values()))
        terminal.print_table(
            [f"{path}: tokens", "texts", *(f"{name}, nats" for name in _short(list(losses)))],
            [
                (
                    f"{here.begin + 1:,}"
                    if here.end == here.begin + 1
                    else f"{here.begin + 1:,} to {here.end:,}",
                    f"{here.texts:,}",
                    *(_loss(each[row]) for each in losses.values()),
                )
                for row, here in enumerate(first)
            ],
            numbers=["texts"],
        )


def as_json(positions: Mapping[str, Mapping[str, Sequence[PositionLoss]]]) -> dict[str, object]:
    """Return the loss of each model by the position of the token, as JSON has it."""
    from receptance.evaluation import finite

    return {
        path: {model: [finite(each) for each in losses] for model, losses in models.items()}
        for path, models in positions.items()
    }


def _loss(loss: PositionLoss) -> str:
    error = "" if math.isnan(loss.standard_error) else f" ± {loss.standard_error:.4f}"
    return f"{loss.nats:.4f}{error}"


def _figure(metric: str, figure: Estimate) -> str:
    from receptance.evaluation import PROPORTIONS

    if metric in PROPORTIONS:
        return _with_interval(figure, lambda value: f"{100 * value:.2f}", " %")
    return _with_interval(figure, _number)


def _comparison(metric: str, figure: Estimate | None) -> str:
    from receptance.evaluation import PERPLEXITIES, PROPORTIONS

    if figure is None:
        return "of other tokens"
    if metric in PROPORTIONS:
        return _with_interval(figure, lambda value: f"{100 * value:+.2f}", " %")
    if metric in PERPLEXITIES:
        return _with_interval(figure, _number, " times")
    return _with_interval(figure, lambda value: f"{value:+.4f}")


def _with_interval(figure: Estimate, write: Callable[[float], str], unit: str = "") -> str:
    value = write(figure.value) + unit
    if math.isnan(figure.standard_error):
        return value
    return f"{value} ({write(figure.low)} to {write(figure.high)})"


def _number(value: float) -> str:
    """Return a number of any size in three or four digits."""
    if not 1 <= value < 1e6:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 4 - len(str(int(value))))}f}"


def _short(paths: Sequence[str]) -> list[str]:
    """Return names that tell the models apart: those of the files where that suffices."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else list(paths)
