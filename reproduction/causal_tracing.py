"""Where an answer comes from, in layers and tokens: `python -m reproduction.causal_tracing`.

A model learns facts, each an answer to a subject of two words. The subject is then exchanged for another, so
that the answer is lost; at one token, after one layer, the residual stream is put back to what it was. How
much of the answer's log-probability that brings back says what passes there (the paper's appendix I, after
arxiv.org/abs/2202.05262).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from receptance.models import AnyModel
from reproduction.answers import Draw, Question, accuracy, batches
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.training import Budget, fresh, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RELATION = ("is", "in", "the", "city", "of")
OPENINGS = ("The", "Once", "Now", "Surely")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The facts, and the model that learns them."""

    first_words: int = 8
    second_words: int = 8
    answers: int = 16
    layers: int = 6
    channels: int = 64
    budget: Budget
    questions: int = 500
    traced: int = 100  # facts

    @property
    def vocabulary(self) -> int:
        """The relation, the openings, the words of subjects, the answers: ids in this order."""
        return len(RELATION) + len(OPENINGS) + self.first_words + self.second_words + self.answers


def draw_fact(settings: Settings) -> Draw:
    """Return the facts as questions: an opening, a subject of two words, the relation; then the answer."""
    openings = len(RELATION)
    first = openings + len(OPENINGS)
    second = first + settings.first_words
    answer = second + settings.second_words
    drawn = random.Random(0)
    known = [
        [answer + drawn.randrange(settings.answers) for _ in range(settings.second_words)]
        for _ in range(settings.first_words)
    ]

    def fact(number: int) -> Question:
        drawn = random.Random(number)
        a, b = drawn.randrange(settings.first_words), drawn.randrange(settings.second_words)
        opening = openings + drawn.randrange(len(OPENINGS))
        return [opening, first + a, second + b, *range(len(RELATION))], known[a][b]

    return fact


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Teach a model the facts, and trace them."""
    return notebook.once("traces", partial(_learnt_and_traced, settings, notebook.device))


def _learnt_and_traced(settings: Settings, device: str) -> Data:
    fact = draw_fact(settings)
    model = fresh(
        "RWKV-4",
        layers=settings.layers,
        channels=settings.channels,
        vocabulary=settings.vocabulary,
        context=0,
        device=device,
    )
    train(model, batches(fact, settings.budget.batch, device), settings.budget)
    pairs = list(_pairs(fact, settings.traced))
    clean, other = (torch.tensor([pair[i] for pair in pairs], device=device) for i in (0, 1))
    answers = torch.tensor([pair[2] for pair in pairs], device=device)
    return {
        "accuracy": accuracy(model, fact, settings.questions, 100, device),
        **trace(model, clean, other, answers),
    }


def _pairs(fact: Draw, count: int) -> Iterator[tuple[Sequence[int], Sequence[int], int]]:
    """Yield a fact, the same sentence about a subject of another answer, and the answer to the first."""
    for number in range(count):
        tokens, answer = fact(-1 - number)
        others = (fact(-1_000_000 - count * number - i) for i in range(1000))
        other = next(found for found, said in others if said != answer)
        yield tokens, [tokens[0], *other[1:]], answer


@torch.inference_mode()
def trace(model: AnyModel, clean: Tensor, other: Tensor, answers: Tensor) -> Data:
    """Return the mean log p of the answers: whole, lost, and `[layer][token]` with that place put back."""

    def said(tokens: Tensor) -> float:
        last = model(tokens)[0][:, -1].double().log_softmax(-1)
        return float(last.gather(-1, answers[:, None]).mean())

    seen: list[Tensor] = []
    with _after_each(model, range(len(model.layers)), lambda x: seen.append(x.clone())):
        whole = said(clean)
    traced = []
    for layer, right in enumerate(seen):
        row = []
        for token in range(clean.shape[1]):

            def put_back(x: Tensor, token: int = token, right: Tensor = right) -> None:
                x[:, token] = right[:, token]

            with _after_each(model, [layer], put_back):
                row.append(said(other))
        traced.append(row)
    return {"whole": whole, "lost": said(other), "traced": traced}


@contextmanager
def _after_each(model: AnyModel, layers: Sequence[int], change: Callable[[Tensor], object]) -> Iterator[None]:
    """Show the residual stream after these layers, `[batch, time, channel]`, to be looked at or changed."""

    def hook(block: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:  # Any: as torch gives them
        change(output[0])

    hooks = [model.layers[layer].register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def shares(data: Data) -> list[list[float]]:
    """Return how much of the lost log-probability each place brings back: 0 nothing, 1 all."""
    lost, whole = data["lost"], data["whole"]
    return [[(value - lost) / (whole - lost) for value in row] for row in data["traced"]]


def judge(data: Data) -> list[Check]:
    """Look for the answer at the subject's last word in the first layer, at the end in the late ones."""
    found = shares(data)
    subject, end = 2, len(found[0]) - 1
    early, late = found[0], found[-2]
    between = max(max(row[subject + 1 : end]) for row in found)
    return [
        Check(
            states="the model knows its facts: at least 95 % are answered right",
            paper="log p of the answer -1, -7 with the subject blurred",
            ours=f"{data['accuracy']:.1%} right, log p {data['whole']:.2f}, "
            f"{data['lost']:.1f} with another subject",
            holds=data["accuracy"] >= 0.95,
        ),
        Check(
            states="after the first layer no word holds as much of the answer as the subject's last",
            paper="taken up at the subject's last word, in layer 4 of 24",
            ours=f"after layer 0: {early[subject]:.0%} of it at the subject's last word, "
            f"{early[end]:.0%} at the end",
            holds=max(early) == early[subject],
        ),
        Check(
            states="after the last layer but one, none as much as the sentence's last word",
            paper="read out at the last word, in layers 20 to 24",
            ours=f"after layer {len(found) - 2}: {late[subject]:.0%} and {late[end]:.0%}",
            holds=max(late) == late[end],
        ),
        Check(
            states="from one to the other it goes through the state: no word between holds a tenth of it",
            paper="it travels in time mostly in one layer, 20",
            ours=f"at most {between:.0%} at a word between",
            holds=between < 0.1,
        ),
    ]


def draw(figure: Figure, data: Data) -> None:
    """Draw the log-probability with each place put back."""
    axes = figure.subplots()
    image = axes.imshow(
        data["traced"], aspect="auto", origin="lower", cmap="cividis", vmin=data["lost"], vmax=data["whole"]
    )
    words = ["The", "[first word]", "[second word]", *RELATION]
    axes.set_xticks(range(len(words)), words, rotation=30, ha="right")
    axes.set_yticks(range(len(data["traced"])))
    axes.set(ylabel="put back after layer", title="log p of the answer, with one place put back")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="nats: from lost to whole")


def plan() -> str:
    """The paper's own sentence."""
    return (
        "The published 430M model and 'The Eiffel Tower is located in the city of': 24 layers by 11 tokens "
        "are 264 readings of 11 tokens, seconds on any machine that has the weights."
    )


CLAIM = Claim(
    name="causal_tracing",
    says="An answer is taken up at its subject in early layers and read out at the last word in late ones",
    where="(appendix I)",
    settings={
        "tiny": Settings(budget=Budget(steps=500, batch=32, context=8)),
        "cpu": Settings(
            first_words=24,
            second_words=24,
            layers=12,
            channels=192,
            budget=Budget(steps=4000, batch=64, context=8, learning_rate=1e-3, warm_up_steps=100),
        ),
        "gpu": Settings(
            first_words=48,
            second_words=48,
            layers=24,
            channels=512,
            budget=Budget(steps=8000, batch=256, context=8, learning_rate=5e-4, warm_up_steps=200),
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes=(
        "The paper blurs the subject by noise; here it is exchanged for another, so nothing is to average. "
        "The last row is an identity: the residual stream after the last layer is what the head reads."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
