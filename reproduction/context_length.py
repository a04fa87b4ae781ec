"""Loss by position, before and after contexts of 1 : 2 : 4 : 8: `python -m reproduction.context_length`.

A model is trained on short contexts, then on twice, four and eight times as long ones. Beside it stands the
same model that went on with the short ones for as many tokens.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from receptance.data import Windows
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.plan import cost
from reproduction.text import corpus
from reproduction.training import Budget, fresh, from_windows, nats_by_position, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTORS = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The model, its first training, and the steps on each longer context."""

    layers: int = 4
    channels: int = 64
    budget: Budget
    steps_of_extension: int = 70
    tokenizer: str = "bytes"
    validation_tokens: int = 150_000


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Train, extend, and measure after each stage over the longest context."""
    return notebook.once("stages", lambda: stages(notebook, settings))  # type: ignore[no-any-return]  # JSON


def stages(notebook: Notebook, settings: Settings) -> Data:
    """Return the loss by position after each stage, and after as much training without longer contexts."""
    budget, device = settings.budget, notebook.device
    longest = FACTORS[-1] * budget.context
    validation = corpus(notebook.texts, longest, settings.tokenizer).validation
    assert validation is not None  # a part of the text was held back
    wide = Windows(validation.store, context=longest)

    def learn(model: object, extended: Budget, seed: int) -> list[float]:
        text = corpus(notebook.texts, extended.context, settings.tokenizer, seed)
        train(model, from_windows(text.training[extended.context], extended, device), extended)
        return nats_by_position(model, wide, settings.validation_tokens, 8, device)

    text = corpus(notebook.texts, budget.context, settings.tokenizer)
    model = fresh(
        "RWKV-4",
        layers=settings.layers,
        channels=settings.channels,
        vocabulary=text.description.vocabulary_size,
        context=longest,
        device=device,
    )
    found = {str(budget.context): learn(model, budget, 0)}
    stayed = deepcopy(model)
    again = replace(budget, steps=settings.steps_of_extension, learning_rate=budget.learning_rate / 3)
    for seed, factor in enumerate(FACTORS, start=1):
        extended = replace(again, batch=max(1, budget.batch // factor), context=factor * budget.context)
        found[str(extended.context)] = learn(model, extended, seed)
        control = learn(stayed, again, seed)
    return {"context": budget.context, "stages": found, "control": control}


def bins(by_position: list[float]) -> tuple[list[float], list[float]]:
    """Return middles and means of positions 1, 2, 3-4, 5-8 and so on."""
    edges = [0, *(2**power for power in range(len(by_position).bit_length()) if 2**power <= len(by_position))]
    middles = [(a + 1 + b) / 2 for a, b in pairwise(edges)]
    return middles, [sum(by_position[a:b]) / (b - a) for a, b in pairwise(edges)]


def judge(data: Data) -> list[Check]:
    """Look for a fall with the position, and for one by the extension far from the start."""
    context, found = data["context"], data["stages"]
    first, last = found[str(context)], found[str(FACTORS[-1] * context)]
    _, means = bins(last)
    falls = all(b <= a + 0.02 for a, b in pairwise(means))
    far = slice(len(last) // 2, None)
    tail = {name: sum(one[far]) / len(one[far]) for name, one in (("first", first), ("last", last))}
    control = sum(data["control"][far]) / len(data["control"][far])
    return [
        Check(
            states="the loss falls from one power of two of the position to the next, but for 0.02 nats",
            paper="falls to 2,048 tokens (figure 6)",
            ours=" → ".join(f"{value:.2f}" for value in means),
            holds=falls,
        ),
        Check(
            states=f"far from the start ({len(last) // 2} tokens and more) it is lower after the extension",
            paper="lower at long positions (section 5.2)",
            ours=f"{tail['first']:.3f} → {tail['last']:.3f} nats",
            holds=tail["last"] < tail["first"],
        ),
        Check(
            states="and lower than where as many tokens were read in short contexts",
            paper="",
            ours=f"{tail['last']:.3f} against {control:.3f} nats",
            holds=tail["last"] < control,
        ),
    ]


def draw(figure: Figure, data: Data) -> None:
    """Draw the loss over the position after each stage."""
    axes = figure.subplots()
    for number, (context, by_position) in enumerate(data["stages"].items()):
        axes.plot(*bins(by_position), "o-", color=f"C{number}", label=f"contexts up to {context}")
        axes.axvline(int(context), color=f"C{number}", linewidth=0.6, linestyle=":")
    label = f"as many tokens, contexts of {data['context']}"
    axes.plot(*bins(data["control"]), "--", color="grey", label=label)
    axes.set(xlabel="position", ylabel="nats a token, validation", xscale="log")
    axes.legend()


def plan() -> str:
    """What the paper spent on the 7B model."""
    return (
        "From 1,024 to 2,048 tokens for 10 billion tokens, to 4,096 and to 8,192 for 100 billion each, of "
        f"the 7B model: {cost(3 * 1.437e10 * 210e9)}."
    )


CLAIM = Claim(
    name="context_length",
    says="A longer context lowers the loss, and contexts can be extended by going on with longer ones",
    where="(sections 5.2 and 5.3, figure 6)",
    settings={
        "tiny": Settings(budget=Budget(steps=250, batch=128, context=16)),
        "cpu": Settings(
            layers=6,
            channels=192,
            budget=Budget(steps=4000, batch=32, context=128, learning_rate=2e-3, warm_up_steps=50),
            steps_of_extension=800,
            validation_tokens=1_000_000,
        ),
        "gpu": Settings(
            layers=12,
            channels=512,
            budget=Budget(steps=4000, batch=64, context=512, learning_rate=1e-3, warm_up_steps=100),
            steps_of_extension=800,
            validation_tokens=2_000_000,
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
