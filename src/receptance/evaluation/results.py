"""What models make of a task: each figure with its error, by group, and beside that of the first model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from receptance.evaluation.estimates import Estimate, Values, comparison, estimate
from receptance.evaluation.items import Item, Kept
from receptance.evaluation.perplexity import PositionLoss, by_position_from_sums


@dataclass(frozen=True)
class Result:
    """The answers of one or several models to the same items."""

    items: Sequence[Item]
    answers: Mapping[str, Sequence[Kept]]  # of each model, in the order of the items

    @cached_property
    def _values(self) -> dict[str, dict[str, Values]]:
        """The values of the items, by model and metric."""
        found: dict[str, dict[str, Values]] = {}
        for model, answers in self.answers.items():
            measures = [item.measures(answer) for item, answer in zip(self.items, answers, strict=True)]
            found[model] = {metric: [each[metric] for each in measures] for metric in measures[0]}
        return found

    @property
    def metrics(self) -> list[str]:
        """The names of the figures."""
        return list(next(iter(self._values.values())))

    def estimate(self, model: str, metric: str) -> Estimate:
        """Return a figure of a model."""
        return estimate(metric, self._values[model][metric])

    def comparison(self, model: str, base: str, metric: str) -> Estimate | None:
        """Return by how much a figure of a model is above that of another, a perplexity how many times it.

        None where they are shared out to different counts, such as the tokens of different tokenizers.
        """
        ours, theirs = self._values[model][metric], self._values[base][metric]
        if any(count != other for (_, count), (_, other) in zip(ours, theirs, strict=True)):
            return None
        return comparison(metric, ours, theirs)

    def by_group(self, model: str, metric: str) -> dict[str, Estimate]:
        """Return a figure of each group; nothing where the task has none."""
        groups: dict[str, list[tuple[float, float]]] = {}
        for item, value in zip(self.items, self._values[model][metric], strict=True):
            groups.setdefault(item.group, []).append(value)
        return {group: estimate(metric, values) for group, values in groups.items() if group}

    def by_position(self, length: int) -> dict[str, list[PositionLoss]]:
        """Return the loss of each model by the position of the token, in texts of at least `length` tokens.

        Raises ConfigError when there is none, or the length is no power of two.
        """
        return {
            model: by_position_from_sums((kept["first"] for kept in answers), length)
            for model, answers in self.answers.items()
        }

    def as_json(self, *, per_item: bool = False) -> dict[str, object]:
        """Return all of it for a JSON file; what is not finite as null."""
        base = next(iter(self.answers))
        models = {}
        for model in self.answers:
            figures: dict[str, object] = {}
            for metric in self.metrics:
                figure: dict[str, object] = finite(self.estimate(model, metric))
                if groups := self.by_group(model, metric):
                    figure["groups"] = {group: finite(each) for group, each in groups.items()}
                if model != base:
                    beside = self.comparison(model, base, metric)
                    figure["beside_first"] = finite(beside) if beside else None
                figures[metric] = figure
            models[model] = figures
        items: dict[str, object] = {}
        if per_item:
            items["per_item"] = [
                {"item": asdict(item), "answers": {model: self.answers[model][i] for model in self.answers}}
                for i, item in enumerate(self.items)
            ]
        return {"items": len(self.items), "models": models, **items}


def finite(figure: Estimate | PositionLoss) -> dict[str, object]:
    """Return the fields of a figure as JSON has them: what is not finite as null."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(figure).items()}
