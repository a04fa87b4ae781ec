"""Accuracies without examples, beside those that transformers gives: `python -m reproduction.zero_shot`.

The paper's tables need its published models, which `receptance evaluate` scores. What can be shown without
them is that it scores rightly: a small trained model gets the very answers, item by item, that it gets in
transformers, where each choice is read whole and alone. The words of the questions are lm-eval's, to which
`tests/evaluation/test_harness.py` holds them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

import receptance
from receptance import checkpoints
from receptance.evaluation import Encoding, Request, Result, Scored, answers, questions
from receptance.evaluation.items import ScoredItem
from reproduction.claim import Check, Claim, Data, NotAtHandError
from reproduction.command import main
from reproduction.models import PAPER_SIZES, shape_of
from reproduction.notebook import Notebook
from reproduction.pictures import GPT, RWKV
from reproduction.plan import cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BESIDE = Path(__file__).resolve().parents[2]  # the checkout
MODEL = Path("shared/data/tiny-models/rwkv-4.0-660K.safetensors")
ITEMS = Path("shared/data/eval")
# Those of the paper's tables that are questions with choices or a last word.
TASKS = (
    "lambada",
    "piqa",
    "hellaswag",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "openbookqa",
    "headqa",
    "sciq",
    "copa",
)
PAPER_169M = (
    "169M: LAMBADA 32.99 % (perplexity 29.33), PIQA 65.07, HellaSwag 32.26, WinoGrande 50.83, ARC 47.47 and "
    "24.15, OpenBookQA 29.60, HeadQA 25.78, SciQ 77.50, COPA 66"
)
BOUND = 1e-4  # nats of a choice


@dataclass(frozen=True)
class Settings:
    """How many questions of each task."""

    tasks: tuple[str, ...] = TASKS
    limit: int = 20


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Score each task twice."""
    for needed in (MODEL, ITEMS):
        if not (BESIDE / needed).exists():
            raise NotAtHandError(f"it needs {needed} beside the checkout")
    return {task: notebook.once(task, partial(scored_twice, task, settings.limit)) for task in settings.tasks}


@torch.inference_mode()
def scored_twice(task: str, limit: int) -> Data:
    """Return the accuracy by both programs, and the largest difference of a log likelihood."""
    lm = receptance.load(BESIDE / MODEL, tokenizer="bytes", runtime="auto")
    items = questions(task, BESIDE / ITEMS, limit=limit).items
    encoding = Encoding(lm.tokenizer)
    ours = answers(lm, items, encoding)
    score = transformers_score()
    theirs = []
    for item in items:
        assert isinstance(item, ScoredItem)  # no task here is answered in words
        theirs.append(item.kept([score(request) for request in item.requests(encoding)], encoding))
    result = Result(items, {"ours": ours, "theirs": theirs})
    metric = "acc_norm" if "acc_norm" in result.metrics else "acc"
    differences = torch.tensor([[*chain(*ours)], [*chain(*theirs)]], dtype=torch.float64).diff(dim=0)
    return {
        "items": len(items),
        "metric": metric,
        "ours": result.estimate("ours", metric).value,
        "theirs": result.estimate("theirs", metric).value,
        "difference": float(differences.abs().max()),
    }


def transformers_score() -> Callable[[Request], Scored]:
    """Return what scores a request with the model in transformers, which reads it whole."""
    from transformers import RwkvForCausalLM

    with TemporaryDirectory() as folder:
        checkpoints.save(
            checkpoints.load(BESIDE / MODEL).model, Path(folder) / "model", format="transformers"
        )
        module = RwkvForCausalLM.from_pretrained(Path(folder) / "model").eval()

    def score(request: Request) -> Scored:
        tokens = torch.tensor([[*request.context, *request.continuation]])
        said = module(tokens, use_cache=False).logits[0, -len(request.continuation) - 1 : -1]
        said = said.double().log_softmax(-1)
        wanted = tokens[0, -len(request.continuation) :]
        return Scored(said.gather(-1, wanted[:, None])[:, 0], said.argmax(-1) == wanted)

    return score


def judge(data: Data) -> list[Check]:
    """No answer may differ."""
    scores = ", ".join(f"{task} {found['ours']:.0%}" for task, found in data.items())
    unequal = [task for task, found in data.items() if found["ours"] != found["theirs"]]
    worst = max(found["difference"] for found in data.values())
    items = sum(found["items"] for found in data.values())
    return [
        Check(
            states="a small trained model scores as in transformers: the difference in accuracy is 0",
            paper=PAPER_169M,
            ours=f"{scores} of {items} questions; unequal: {', '.join(unequal) or 'none'}",
            holds=not unequal,
        ),
        Check(
            states=f"no log likelihood of a choice differs by more than {BOUND:g} nats",
            paper="",
            ours=f"{worst:.1e} nats",
            holds=worst <= BOUND,
        ),
    ]


def draw(figure: Figure, data: Data) -> None:
    """Draw the accuracies side by side, and how far the likelihoods are apart."""
    axes, beside = figure.subplots(1, 2, width_ratios=(2, 1))
    places = range(len(data))
    for shift, (name, label, colour) in enumerate(
        (("ours", "receptance evaluate", RWKV), ("theirs", "transformers", GPT))
    ):
        heights = [found[name] for found in data.values()]
        axes.bar([place + 0.4 * shift - 0.2 for place in places], heights, 0.4, label=label, color=colour)
    axes.set(ylabel="right answers", title="RWKV-4 of 660 thousand parameters", ylim=(0, 1))
    axes.set_xticks(places, data, rotation=45, ha="right")
    axes.legend()
    beside.semilogy(places, [max(found["difference"], 1e-12) for found in data.values()], "o", color=RWKV)
    beside.axhline(BOUND, color="grey", linestyle="--", linewidth=0.8)
    beside.set(ylabel="nats", title="largest difference of a choice")
    beside.set_xticks(places, data, rotation=45, ha="right")


def plan() -> str:
    """The published checkpoints, and the command that scores them."""
    sizes = [shape_of(*size).num_parameters for size in PAPER_SIZES.values()]
    return (
        f"The six published checkpoints (RWKV-4-Pile-169M to -14B, {2 * sum(sizes) / 1e9:.0f} GB), each with "
        f"`receptance evaluate MODEL --tasks {','.join(TASKS)},triviaqa --data FOLDER --output MODEL.json`, "
        "whose line break before every text is the paper's. These are some 100,000 texts of 100 tokens: "
        f"{cost(2 * sum(sizes) * 1e7)} for all six. Pythia, OPT and BLOOM "
        "beside them take as much again each; ReCoRD and StoryCloze are not among our tasks."
    )


CLAIM = Claim(
    name="zero_shot",
    says="Answers without examples are scored as in the paper's tables",
    where="(section 5.1, tables of version 1)",
    settings={"tiny": Settings(), "cpu": Settings(limit=500), "gpu": Settings(limit=500)},
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes=(
        "The paper's accuracies are those of its published models; the scale `paper` says what they take. A "
        "model this small answers by chance: what is shown is that it is scored rightly, item by item."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
