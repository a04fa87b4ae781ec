"""A question is better asked before the data than after: `python -m reproduction.prompt_order`.

The data are pairs of a key and a value in random order, the question is a key, the answer its value. Asked
first, a model of constant memory knows what to look for; asked last, it must have remembered every pair.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reproduction.answers import Draw, Question, accuracy, batches
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.pictures import smooth
from reproduction.training import Budget, fresh, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDERS = ("question first", "question last")
ASK = 1  # stands before the question, and where the answer is due


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The task, and the model that learns it in both orders."""

    pairs: int = 8
    symbols: int = 16  # keys, and as many values
    layers: int = 2
    channels: int = 64
    budget: Budget
    seeds: int = 2
    questions: int = 1000


def draw_question(settings: Settings, order: str) -> Draw:
    """Return the task in one of the orders."""
    keys = range(2, 2 + settings.symbols)

    def question(number: int) -> Question:
        drawn = random.Random(number)
        chosen = drawn.sample(keys, settings.pairs)
        values = [drawn.randrange(2 + settings.symbols, 2 + 2 * settings.symbols) for _ in chosen]
        asked = drawn.randrange(settings.pairs)
        data = [token for pair in zip(chosen, values, strict=True) for token in pair]
        if order == ORDERS[0]:
            return [ASK, chosen[asked], *data, ASK], values[asked]
        return [*data, ASK, chosen[asked]], values[asked]

    return question


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Train in each order."""

    def learnt(order: str, seed: int) -> Data:
        task = draw_question(settings, order)
        model = fresh(
            "RWKV-4",
            layers=settings.layers,
            channels=settings.channels,
            vocabulary=2 + 2 * settings.symbols,
            context=0,
            device=notebook.device,
            seed=seed,
        )
        curve = train(model, batches(task, settings.budget.batch, notebook.device), settings.budget)
        right = accuracy(model, task, settings.questions, 100, notebook.device)
        return {"accuracy": right, "losses": curve["losses"]}

    found = {
        order: [
            notebook.once(f"{order}-{seed}", lambda order=order, seed=seed: learnt(order, seed))
            for seed in range(settings.seeds)
        ]
        for order in ORDERS
    }
    return {"chance": 1 / settings.symbols, "pairs": settings.pairs, "orders": found}


def judge(data: Data) -> list[Check]:
    """The worst seed with the question first must beat the best with the question last."""
    first, last = ([one["accuracy"] for one in data["orders"][order]] for order in ORDERS)
    return [
        Check(
            states="asked first, more answers are right than asked last, with every seed",
            paper="RTE F1 44.2 → 74.8, GoEmotions 7.9 → 7.9, PolEmo2 38.2 → 40.9, WNLI 47.9 → 49.3",
            ours=f"{max(last):.1%} → {min(first):.1%} of the answers, {data['pairs']} pairs",
            holds=min(first) > max(last),
        )
    ]


def draw(figure: Figure, data: Data) -> None:
    """Draw the curves and the right answers."""
    curves, bars = figure.subplots(1, 2, width_ratios=(2, 1))
    for colour, (order, seeds) in zip(("tab:blue", "tab:red"), data["orders"].items(), strict=True):
        for one in seeds:
            curves.plot(smooth(one["losses"]), color=colour, label=order if one is seeds[0] else None)
            bars.plot(order, one["accuracy"], "o", color=colour)
    curves.set(xlabel="step", ylabel="nats an answer")
    curves.legend()
    bars.axhline(data["chance"], color="grey", linestyle="--", linewidth=0.8)
    bars.set(ylabel="right answers", ylim=(0, 1.02), xlim=(-0.5, 1.5))


def plan() -> str:
    """The paper's own way needs a published chat model and its data sets."""
    return (
        "Raven-14B over eight data sets in two orders of the prompt: some 10,000 prompts of 300 tokens, "
        "3 million tokens to read, minutes of one A100; it needs the published weights (28 GB)."
    )


CLAIM = Claim(
    name="prompt_order",
    says="A question is better asked before the data than after",
    where="(appendix L)",
    settings={
        "tiny": Settings(budget=Budget(steps=700, batch=64, context=19)),
        "cpu": Settings(
            pairs=16,
            symbols=64,
            layers=3,
            channels=128,
            budget=Budget(steps=5000, batch=128, context=35, learning_rate=1e-3),
            seeds=3,
        ),
        "gpu": Settings(
            pairs=32,
            symbols=128,
            layers=4,
            channels=256,
            budget=Budget(steps=8000, batch=256, context=67, learning_rate=1e-3),
            seeds=3,
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes="The paper asks a chat model; here a model learns each order from scratch, for as long.",
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
