"""Matrices that start as zeros and orthogonal ones learn faster: `python -m reproduction.initialisation`."""

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

PUBLISHED, NORMAL, LEVEL = "as published", "matrices N(0, 0.02)", "all channels alike"


@torch.no_grad()
def normal(model: AnyModel) -> None:
    """Start every matrix but the embedding as GPT-2 does."""
    for name, parameter in model.named_parameters():
        if model.is_matrix(name, parameter.shape) and name != "emb.weight":
            nn.init.normal_(parameter, std=0.02)


@torch.no_grad()
def level(model: AnyModel) -> None:
    """Start with decays, bonuses and mixes that no layer and no channel has of its own."""
    for name, parameter in model.named_parameters():
        if "time_mix" in name:
            parameter.fill_(0.5)
        elif name.endswith(("time_decay", "time_first")):
            parameter.fill_(parameter.mean())


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Train from the three starts."""
    return measure_starts(notebook, settings, {PUBLISHED: lambda model: None, NORMAL: normal, LEVEL: level})


def judge(data: Data) -> list[Check]:
    """Compare with the other starts, seed by seed."""
    paper = "faster and more stable training (no numbers)"
    return [*lower(data, PUBLISHED, NORMAL, paper), *lower(data, PUBLISHED, LEVEL, paper)]


def plan() -> str:
    """Three starts of the smallest model."""
    return f"The 169M model from three starts, each for 10 billion tokens: {cost(3 * 3 * 2.613e8 * 1e10)}."


CLAIM = Claim(
    name="initialisation",
    says="Matrices of zeros and orthogonal ones, and channels that differ from the start, learn faster",
    where="(appendix E)",
    settings={
        "tiny": Settings(budget=Budget(steps=100, batch=16, context=128), seeds=3, layers=3),
        "cpu": Settings(
            layers=6, channels=192, budget=Budget(steps=1000, batch=16, context=256, learning_rate=2e-3)
        ),
        "gpu": Settings(
            layers=12, channels=512, budget=Budget(steps=1000, batch=32, context=512, learning_rate=1e-3)
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
