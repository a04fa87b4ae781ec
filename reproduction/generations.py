"""Four generations, and a GPT, on the same tokens: `python -m reproduction.generations`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.pictures import GPT, smooth
from reproduction.plan import cost
from reproduction.rates import at_best_rate
from reproduction.text import corpus
from reproduction.training import Budget, fresh, from_windows, num_parameters, train, validation_nats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("RWKV-4", "RWKV-5", "RWKV-6", "RWKV-7", "GPT")
SAME = 0.005  # nats that are no difference


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The shape that all have, and how long they are trained."""

    layers: int = 4
    channels: int = 64
    budget: Budget
    trial: float = 0.5  # of the steps, to find the rate; 1: all of them
    tokenizer: str = "bytes"
    validation_tokens: int = 100_000


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Train each kind, at the rate that suits it."""
    text = corpus(notebook.texts, settings.budget.context, settings.tokenizer)

    def trained(kind: str, budget: Budget) -> Data:
        model = fresh(
            kind,
            layers=settings.layers,
            channels=settings.channels,
            vocabulary=text.description.vocabulary_size,
            context=budget.context,
            device=notebook.device,
        )
        curve = train(model, from_windows(text.training[budget.context], budget, notebook.device), budget)
        assert text.validation is not None  # a part of the text was held back
        nats = validation_nats(model, text.validation, settings.validation_tokens, 16, notebook.device)
        return {"parameters": num_parameters(model), "validation": nats, "tokens": budget.tokens, **curve}

    return {
        kind: at_best_rate(
            notebook, kind, settings.budget, partial(trained, kind), "validation", settings.trial
        )
        for kind in KINDS
    }


def judge(data: Data) -> list[Check]:
    """Compare each generation with the one before, and the last with the GPT."""
    nats = {kind: found["validation"] for kind, found in data.items()}
    checks = [
        Check(
            states=f"{later} is not above {earlier} by more than {SAME} nats",
            paper=f"{later} better than {earlier} (arxiv.org/abs/2404.05892, 2503.14456)",
            ours=f"{later} {nats[later]:.4f}, {earlier} {nats[earlier]:.4f} nats a token",
            holds=nats[later] <= nats[earlier] + SAME,
        )
        for earlier, later in pairwise(KINDS[:-1])
    ]
    return [
        *checks,
        Check(
            states="RWKV-4 is not above the GPT by more than 5 %",
            paper="RWKV-4 on a level with transformers",
            ours=f"GPT {nats['GPT']:.4f} nats a token",
            holds=nats["RWKV-4"] <= 1.05 * nats["GPT"],
        ),
    ]


def draw(figure: Figure, data: Data) -> None:
    """Draw the losses over the tokens."""
    whole, end = figure.subplots(1, 2, width_ratios=(2, 1))
    for number, (kind, found) in enumerate(data.items()):
        tokens_a_step = found["tokens"] / len(found["losses"]) / 1000
        colour = GPT if kind == "GPT" else f"C{(0, 2, 3, 4)[number]}"
        label = (
            f"{kind}, {found['parameters'] / 1000:,.0f} thousand parameters, "
            f"rate {found['learning_rate']:.2g}"
        )
        losses = smooth(found["losses"])
        whole.plot([tokens_a_step * step for step in range(len(losses))], losses, color=colour, label=label)
        end.bar(kind, found["validation"], color=colour)
    whole.set(xlabel="thousand tokens", ylabel="nats a token, training", yscale="log")
    whole.yaxis.set_major_formatter("{x:g}")
    whole.yaxis.set_minor_formatter("{x:g}")
    whole.legend()
    lowest = min(found["validation"] for found in data.values())
    end.set(ylabel="nats a token, validation", ylim=(0.9 * lowest, None))
    end.tick_params(axis="x", rotation=45)


def plan() -> str:
    """One model of 169M a generation, on the Pile."""
    flops = 4 * 3 * 2.613e8 * 332e9
    return f"The 0.1B models of the four generations, each on the Pile's 332 billion tokens: {cost(flops)}."


CLAIM = Claim(
    name="generations",
    says="RWKV-5, 6 and 7 each learn more than the one before on an equal budget",
    where="(their own papers)",
    settings={
        "tiny": Settings(budget=Budget(steps=250, batch=8, context=128, learning_rate=1e-2), trial=1),
        "cpu": Settings(
            layers=6, channels=192, budget=Budget(steps=3000, batch=16, context=256, learning_rate=2e-3)
        ),
        "gpu": Settings(
            layers=12,
            channels=512,
            budget=Budget(steps=4000, batch=32, context=512, learning_rate=1e-3, warm_up_steps=100),
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes=(
        "Equal are layers, channels, tokens, batches, schedule and optimizer. Parameters are not: the low "
        "ranks of RWKV-6 and 7 have a least size, which counts in so small a model. Each kind has the best "
        "of three rates of learning. What a few hundred thousand tokens teach, as at the scale `tiny`, says "
        "little of what they come to in the end."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
