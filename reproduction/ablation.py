"""The same model started in several ways, each with several seeds, on the same tokens."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from receptance.models import AnyModel
from reproduction.claim import Check, Data
from reproduction.notebook import Notebook
from reproduction.pictures import smooth
from reproduction.text import corpus
from reproduction.training import Budget, fresh, from_windows, train, validation_nats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Start = Callable[[AnyModel], Any]  # Any: whatever it returns is not looked at
COLOURS = ("tab:blue", "tab:red", "tab:brown", "tab:pink")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The model, its training, and how often each start is tried."""

    layers: int = 4
    channels: int = 64
    budget: Budget
    seeds: int = 3
    tokenizer: str = "bytes"
    validation_tokens: int = 50_000


def measure(notebook: Notebook, settings: Settings, starts: Mapping[str, Start]) -> Data:
    """Return the curve and the validation loss of every seed of every start."""
    budget = settings.budget
    text = corpus(notebook.texts, budget.context, settings.tokenizer)

    def trained(start: Start, seed: int) -> Data:
        model = fresh(
            "RWKV-4",
            layers=settings.layers,
            channels=settings.channels,
            vocabulary=text.description.vocabulary_size,
            context=budget.context,
            device=notebook.device,
            seed=seed,
        )
        start(model)
        curve = train(model, from_windows(text.training[budget.context], budget, notebook.device), budget)
        assert text.validation is not None  # a part of the text was held back
        nats = validation_nats(model, text.validation, settings.validation_tokens, 16, notebook.device)
        return {"validation": nats, "losses": curve["losses"]}

    return {
        name: [
            notebook.once(f"{number}-seed{seed}", lambda start=start, seed=seed: trained(start, seed))
            for seed in range(settings.seeds)
        ]
        for number, (name, start) in enumerate(starts.items())
    }


def lower(data: Data, first: str, second: str, paper: str) -> list[Check]:
    """Say whether the first start ends below the second, and whether it learns faster on the way there."""
    checks = []
    for states, key in (("after training", "validation"), ("in the mean over training", "losses")):
        ours, theirs = (
            [one[key] if key == "validation" else statistics.mean(one[key]) for one in data[name]]
            for name in (first, second)
        )
        differences = [b - a for a, b in zip(ours, theirs, strict=True)]
        gain, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
        checks.append(
            Check(
                states=f"{first}: a lower loss {states} than with {second}, by more than 2 standard errors",
                paper=paper,
                ours=f"{states} lower by {gain:+.3f} ± {error:.3f} nats than with {second}",
                holds=gain > 2 * error,
            )
        )
    return checks


def draw(figure: Figure, data: Data) -> None:
    """Draw the curves of all seeds, and the mean of each start."""
    axes = figure.subplots()
    for colour, (name, seeds) in zip(COLOURS, data.items(), strict=False):
        curves = [smooth(one["losses"]) for one in seeds]
        for curve in curves:
            axes.plot(curve, color=colour, linewidth=0.5, alpha=0.4)
        mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
        end = statistics.mean(one["validation"] for one in seeds)
        axes.plot(mean, color=colour, label=f"{name} (validation {end:.3f})")
    axes.set(xlabel="step", ylabel="nats a token, training")
    axes.legend()
