"""Answers that hang on a whole sequence, beside others: `python -m reproduction.long_range`.

`listops` are nested operations on digits, generated as those of the Long Range Arena are
(arxiv.org/abs/2011.04006) but shorter; `source` asks, byte by byte, which package of Python's library some
text is from, of files that were not trained on.
"""

from __future__ import annotations

import random
import statistics
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from reproduction.answers import Draw, Question, accuracy, batches
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.pictures import GPT, LSTM, RWKV, smooth
from reproduction.plan import cost
from reproduction.training import Budget, fresh, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"RWKV-4": RWKV, "GPT": GPT, "LSTM": LSTM}
PAPER = {"listops": "ListOps 55.88 %, transformer 36.37 %", "source": "Text 86.04 %, transformer 64.27 %"}

OPERATIONS: dict[str, Callable[[list[int]], int]] = {
    "[MAX": max,
    "[MIN": min,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
SYMBOLS = ("", *map(str, range(10)), *OPERATIONS, "]")  # the first fills up
FIRST_CLASS = 256  # answers of `source` come after the bytes
PACKAGES = ("asyncio", "ctypes", "email", "importlib", "multiprocessing", "tkinter", "unittest", "xml")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The lengths of the tasks, and the models."""

    listops: tuple[int, int] = (10, 60)  # symbols of a question, at least and at most
    source: int = 128  # bytes
    layers: int = 2
    channels: int = 64
    listops_budget: Budget
    source_budget: Budget
    questions: int = 1000


def listops(settings: Settings) -> tuple[Draw, int]:
    """Return the task of nested operations, and its vocabulary."""
    least, most = settings.listops

    def question(number: int) -> Question:
        drawn = random.Random(number)
        while True:
            symbols, value = expression(drawn, depth=4, arguments=4)
            if least <= len(symbols) <= most:
                return [SYMBOLS.index(symbol) for symbol in symbols], 1 + value

    return question, len(SYMBOLS)


def expression(drawn: random.Random, depth: int, arguments: int) -> tuple[list[str], int]:
    """Draw an expression that is at most so deep, and return its symbols and its value."""
    operation = drawn.choice(list(OPERATIONS))
    symbols, values = [operation], []
    for _ in range(drawn.randint(2, arguments)):
        if depth > 1 and drawn.random() < 0.35:
            inner, value = expression(drawn, depth - 1, arguments)
        else:
            value = drawn.randrange(10)
            inner = [str(value)]
        symbols += inner
        values.append(value)
    return [*symbols, "]"], OPERATIONS[operation](values)


def source(settings: Settings) -> tuple[Draw, int]:
    """Return the task of telling packages apart, and its vocabulary."""
    packages = [name for name in PACKAGES if len(files_of(name)) >= 8]  # not every Python comes with tkinter

    def question(number: int) -> Question:
        drawn = random.Random(number)
        package = drawn.randrange(len(packages))
        files = files_of(packages[package])
        # Every fourth file is for testing alone; a long file is drawn as often as it is long.
        chosen = [text for place, text in enumerate(files) if (place % 4 == 0) == (number < 0)]
        text = drawn.choices(chosen, [len(text) for text in chosen])[0]
        start = drawn.randrange(max(1, len(text) - settings.source))
        return list(text[start : start + settings.source]), FIRST_CLASS + package

    return question, FIRST_CLASS + len(packages)


@cache
def files_of(package: str) -> list[bytes]:
    """Return the sources of a package of Python's library, in the order of their names."""
    folder = Path(sysconfig.get_path("stdlib")) / package
    files = (
        file for file in sorted(folder.rglob("*.py")) if "test" not in file.relative_to(folder).as_posix()
    )
    return [text for file in files if len(text := file.read_bytes()) > 1000]


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Train each model on each task."""
    tasks = {
        "listops": (listops, settings.listops_budget),
        "source": (source, settings.source_budget),
    }

    def learnt(task: str, kind: str) -> Data:
        make, budget = tasks[task]
        question, vocabulary = make(settings)
        model = fresh(
            kind,
            layers=settings.layers,
            channels=settings.channels,
            vocabulary=vocabulary,
            context=budget.context,
            device=notebook.device,
        )
        curve = train(model, batches(question, budget.batch, notebook.device), budget)
        right = accuracy(model, question, settings.questions, 50, notebook.device)
        return {"accuracy": right, **curve}

    return {
        task: {
            kind: notebook.once(f"{task}-{kind}", lambda task=task, kind=kind: learnt(task, kind))
            for kind in COLOURS
        }
        for task in tasks
    }


def judge(data: Data) -> list[Check]:
    """Compare with the transformer, task by task."""
    return [
        Check(
            states=f"{task}: more right answers than the transformer",
            paper=PAPER[task],
            ours=f"{task}: " + ", ".join(f"{kind} {one['accuracy']:.1%}" for kind, one in found.items()),
            holds=found["RWKV-4"]["accuracy"] > found["GPT"]["accuracy"],
        )
        for task, found in data.items()
    ]


def draw(figure: Figure, data: Data) -> None:
    """Draw the curves of each task, with the right answers of each model."""
    for axes, (task, found) in zip(figure.subplots(1, len(data)), data.items(), strict=True):
        for kind, one in found.items():
            label = f"{kind}: {one['accuracy']:.1%} right"
            axes.plot(smooth(one["losses"]), color=COLOURS[kind], label=label)
        axes.set(title=task, xlabel="step", ylabel="nats an answer")
        axes.legend()


def plan() -> str:
    """The paper does not say how it trained; this is the arena's usual effort."""
    return (
        "The Long Range Arena's six tasks on its data (7.7 GB), 6 layers of 512 and 50,000 steps of 32 "
        f"sequences of 2,048 each: {cost(6 * 6 * 13 * 512**2 * 6 * 50_000 * 32 * 2048)}. The paper's own "
        "settings are not published."
    )


CLAIM = Claim(
    name="long_range",
    says="Long-range tasks are solved better than by a transformer",
    where="(appendix J, table 4)",
    settings={
        "tiny": Settings(
            listops_budget=Budget(steps=250, batch=32, context=60),
            source_budget=Budget(steps=300, batch=32, context=128),
        ),
        "cpu": Settings(
            listops=(50, 500),
            source=1024,
            layers=4,
            channels=128,
            listops_budget=Budget(steps=5000, batch=32, context=500, learning_rate=1e-3),
            source_budget=Budget(steps=2000, batch=16, context=1024, learning_rate=1e-3),
            questions=2000,
        ),
        "gpu": Settings(
            listops=(500, 2000),
            source=2048,
            layers=6,
            channels=256,
            listops_budget=Budget(steps=3000, batch=32, context=2000, learning_rate=1e-3),
            source_budget=Budget(steps=2000, batch=32, context=2048, learning_rate=1e-3),
            questions=2000,
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes=(
        "Retrieval, images as pixels, Pathfinder and Path-X need data that does not come with Python. The "
        "paper claims second place behind S4 on all tasks; its own table has RWKV last on Pathfinder."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
