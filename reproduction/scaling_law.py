"""Loss as a power of the compute, beside a GPT of equal size: `python -m reproduction.scaling_law`.

Each model is trained to the end of a schedule of its own, at the best of three rates of learning. The law
is fitted to the models that no other one beats with as little compute, first to all of them, then to those
below a tenth of the largest compute, which say what the others should come to.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import exp, log
from typing import TYPE_CHECKING

from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.pictures import GPT, RWKV
from reproduction.plan import cost
from reproduction.rates import at_best_rate
from reproduction.text import corpus
from reproduction.training import Budget, fresh, from_windows, num_parameters, train, validation_nats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"RWKV-4": RWKV, "GPT": GPT}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes (layers, channels, and the most steps) by shares of the steps, each pair a model.

    The steps grow with the size, so that the computes of the sizes are evenly apart in the logarithm.
    """

    sizes: tuple[tuple[int, int, int], ...]
    shares: tuple[float, ...]
    budget: Budget
    trial: float = 0.5  # of the steps, to find the rate; 1: all of them
    tokenizer: str = "bytes"
    validation_tokens: int = 50_000


@dataclass(frozen=True)
class Point:
    """One trained model."""

    parameters: int
    tokens: int
    flops: float  # of training: 6 a number of a matrix and token, embedding and attention's own not counted
    nats: float  # of validation, a token
    learning_rate: float = 0.0  # the best of those that were tried


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Train every size for every share of its steps, of both kinds."""
    text = corpus(notebook.texts, settings.budget.context, settings.tokenizer)
    vocabulary = text.description.vocabulary_size
    validation = text.validation
    assert validation is not None  # a part of the text was held back

    def point(kind: str, size: tuple[int, int, int], budget: Budget) -> Data:
        model = fresh(
            kind,
            layers=size[0],
            channels=size[1],
            vocabulary=vocabulary,
            context=budget.context,
            device=notebook.device,
        )
        train(model, from_windows(text.training[budget.context], budget, notebook.device), budget)
        nats = validation_nats(model, validation, settings.validation_tokens, 16, notebook.device)
        matrices = 13 * size[1] ** 2 * size[0] + vocabulary * size[1]
        return asdict(Point(num_parameters(model), budget.tokens, 6.0 * matrices * budget.tokens, nats))

    return {
        kind: [
            at_best_rate(
                notebook,
                f"{kind}-{size[0]}x{size[1]}",
                replace(settings.budget, steps=round(share * size[2])),
                partial(point, kind, size),
                "nats",
                settings.trial,
            )
            for size in settings.sizes
            for share in settings.shares
        ]
        for kind in COLOURS
    }


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats with as little compute, by compute."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.flops, p.nats)):
        if not kept or point.nats < kept[-1].nats:
            kept.append(point)
    return kept


@dataclass(frozen=True)
class Law:
    """loss = factor * compute ** exponent."""

    exponent: float
    factor: float

    @classmethod
    def fitted(cls, points: Sequence[Point]) -> Law:
        """Return the straight line through the logarithms."""
        line = statistics.linear_regression([log(p.flops) for p in points], [log(p.nats) for p in points])
        return cls(line.slope, exp(line.intercept))

    def nats(self, flops: float) -> float:
        """Return the loss at a compute."""
        return float(self.factor * flops**self.exponent)

    def r_squared(self, points: Sequence[Point]) -> float:
        """Return the share of the variance of the logarithms that it explains; below 0: worse than none."""
        logs = [log(p.nats) for p in points]
        mean = statistics.mean(logs)
        left = sum((y - log(self.nats(p.flops))) ** 2 for y, p in zip(logs, points, strict=True))
        return 1 - left / sum((y - mean) ** 2 for y in logs)


def held_out(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Part optimal points into those to fit to, and those with more than a tenth of the largest compute."""
    border = points[-1].flops / 10
    return [p for p in points if p.flops <= border], [p for p in points if p.flops > border]


def judge(data: Data) -> list[Check]:
    """Fit all optimal points, then the cheap ones alone; and compare the kinds model by model."""
    points = {kind: [Point(**one) for one in found] for kind, found in data.items()}
    best = pareto(points["RWKV-4"])
    law = Law.fitted(best)
    fit = law.r_squared(best)
    early, late = held_out(best)
    extrapolated = Law.fitted(early).r_squared(late) if len(early) > 1 and len(late) > 1 else float("nan")
    ratios = [ours.nats / theirs.nats for ours, theirs in zip(*points.values(), strict=True)]
    return [
        Check(
            states="a power law through the optimal models has r² of at least 0.98",
            paper="r² 0.994 of 45 models",
            ours=f"r² {fit:.4f} of {len(best)} optimal among {len(points['RWKV-4'])} models, "
            f"loss ∝ C^{law.exponent:.4f}",
            holds=fit >= 0.98,
        ),
        Check(
            states="fitted below a tenth of the compute, it explains the rest with r² of at least 0.875",
            paper="r² 0.875 one order of magnitude further",
            ours=f"r² {extrapolated:.3f} of {len(late)} models held out",
            holds=extrapolated >= 0.875,
        ),
        Check(
            states="the median model has at most 1.05 times the loss of a GPT of its size and tokens",
            paper="on a level with transformers of equal compute",
            ours=f"{statistics.median(ratios):.3f} times ({min(ratios):.3f} to {max(ratios):.3f})",
            holds=statistics.median(ratios) <= 1.05,
        ),
    ]


def draw(figure: Figure, data: Data) -> None:
    """Draw loss over compute: every model, the optimal ones, the law and its extrapolation."""
    axes, beside = figure.subplots(1, 2)
    for kind, found in data.items():
        points = [Point(**one) for one in found]
        best, colour = pareto(points), COLOURS[kind]
        axes.loglog([p.flops for p in points], [p.nats for p in points], ".", color=colour, alpha=0.35)
        axes.loglog(
            [p.flops for p in best], [p.nats for p in best], "o", color=colour, label=f"{kind}, optimal"
        )
        law, ends = Law.fitted(best), (best[0].flops, best[-1].flops)
        axes.loglog(ends, [law.nats(x) for x in ends], color=colour, label=f"∝ C^{law.exponent:.3f}")
        early, _ = held_out(best)
        if kind == "RWKV-4" and len(early) > 1:
            guess, span = Law.fitted(early), (early[0].flops, best[-1].flops)
            axes.loglog(
                span, [guess.nats(x) for x in span], ":", color="grey", label="fitted to the first decade"
            )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="FLOPs of training", ylabel="nats a token, validation")
    axes.legend()
    ours, theirs = ([Point(**one) for one in found] for found in data.values())
    beside.plot([p.nats for p in theirs], [p.nats for p in ours], "o", color=RWKV)
    ends = [min(p.nats for p in ours + theirs), max(p.nats for p in ours + theirs)]
    beside.plot(ends, ends, color="grey", linewidth=0.8)
    beside.set(xlabel="loss of the GPT", ylabel="loss of RWKV-4", title="equal size, equal tokens")


def plan() -> str:
    """The cost of 45 models up to the paper's largest compute, a hundred EFLOP."""
    total = sum(10 ** (17 + 3 * place / 44) for place in range(45))
    return (
        "45 models whose training takes 0.1 to 100 EFLOP, evenly apart in the logarithm (the paper's axis; "
        f"it does not list them): {cost(total)}."
    )


CLAIM = Claim(
    name="scaling_law",
    says="Loss falls as a power of the compute",
    where="(section 4.2, figure 4)",
    settings={
        "tiny": Settings(
            sizes=((2, 16, 320), (2, 24, 390), (2, 32, 550), (2, 48, 620), (3, 56, 760), (4, 64, 1080)),
            shares=(0.5, 1),
            budget=Budget(steps=0, batch=4, context=128, learning_rate=1e-2),
            trial=1,
        ),
        "cpu": Settings(
            sizes=((2, 32, 1000), (3, 64, 1500), (4, 96, 2200), (6, 128, 3000), (6, 192, 4000)),
            shares=(0.25, 0.5, 1),
            budget=Budget(steps=0, batch=16, context=256, learning_rate=2e-3, warm_up_steps=50),
            validation_tokens=500_000,
        ),
        "gpu": Settings(
            sizes=((4, 64, 1000), (6, 128, 1500), (6, 256, 2200), (8, 384, 3000), (12, 512, 4000)),
            shares=(0.25, 0.5, 1),
            budget=Budget(steps=0, batch=32, context=512, learning_rate=1e-3, warm_up_steps=100),
            validation_tokens=1_000_000,
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes=(
        "Compute counts six operations for each number of a matrix and each token, as the paper does; what "
        "attention multiplies among tokens is left out, in favour of the GPT. Each model has the best of "
        "three rates of learning, and neither kind weight decay or dropout; the GPT starts as Pythia did. "
        "At the scale `tiny` none reads a million tokens, which shows who learns faster at first, not who "
        "comes further."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
