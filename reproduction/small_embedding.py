"""A small embedding with a norm learns faster: `python -m reproduction.small_embedding`."""

from __future__ import annotations

import sys

import torch
from torch import nn

from receptance.models import AnyModel
from reproduction.ablation import Settings, draw, lower
from reproduction.ablation import measure as measure_starts
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.plan import cost
from reproduction.training import Budget

SMALL, USUAL, NORMED = "U(±1e-4), norm", "N(0, 0.02), no norm", "N(0, 0.02), norm"


@torch.no_grad()
def usual(model: AnyModel) -> None:
    """Start the embedding as the paper's baseline does: normal, and no norm behind it."""
    nn.init.normal_(model.emb.weight, std=0.02)
    model.layers[0].ln0 = nn.Identity()


@torch.no_grad()
def normed(model: AnyModel) -> None:
    """Start the embedding as the baseline does, with the norm that RWKV has behind it."""
    nn.init.normal_(model.emb.weight, std=0.02)


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Train with the three embeddings."""
    return measure_starts(notebook, settings, {SMALL: lambda model: None, USUAL: usual, NORMED: normed})


def judge(data: Data) -> list[Check]:
    """Compare with the baseline, seed by seed."""
    return lower(data, SMALL, USUAL, "falls faster, and stays below (no numbers)")


def plan() -> str:
    """The paper's batch and steps."""
    flops = 2 * 3 * 2.613e8 * 400 * 1024 * 50_000
    return (
        "The paper gives a batch of 400 and 50,000 steps, neither model nor text: as two of the 169M model "
        f"with contexts of 1,024 it is {cost(flops)}."
    )


CLAIM = Claim(
    name="small_embedding",
    says="An embedding that starts small, with a norm behind it, learns faster",
    where="(appendix F, figure 9)",
    settings={
        "tiny": Settings(
            budget=Budget(steps=120, batch=8, context=64, learning_rate=4e-4),
            tokenizer="bpe:8192",
            layers=2,
            validation_tokens=20_000,
        ),
        "cpu": Settings(
            layers=6,
            channels=192,
            budget=Budget(steps=1000, batch=16, context=128, learning_rate=6e-4),
            tokenizer="bpe:16384",
        ),
        "gpu": Settings(
            layers=12,
            channels=512,
            budget=Budget(steps=1000, batch=64, context=256, learning_rate=6e-4),
            tokenizer="bpe:16384",
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes="It shows with a vocabulary of many rare tokens; with bytes there is nothing to gain.",
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
