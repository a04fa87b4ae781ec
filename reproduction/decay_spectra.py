"""The decays of a trained model, layer by layer: `python -m reproduction.decay_spectra`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from receptance.models import RWKV4
from receptance.models.layers import Place
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.text import corpus
from reproduction.training import Budget, fresh, from_windows, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED, ALIKE = "as published", "all layers alike"
SLOW = 0.9  # a channel that keeps more than this from one token to the next
CLEAR = 0.05  # of a layer's channels: a difference that is one
BEGIN, END = "before training", "after training"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The model, and how long it is trained."""

    layers: int = 4
    channels: int = 64
    budget: Budget
    tokenizer: str = "bytes"


def as_published(model: RWKV4) -> None:
    """Leave the decays as the initialisation has them."""


@torch.no_grad()
def alike(model: RWKV4) -> None:
    """Start every layer with the decays of the first."""
    for block in model.layers:
        block.att.time_decay.copy_(model.layers[0].att.time_decay)


STARTS: dict[str, Callable[[RWKV4], None]] = {PUBLISHED: as_published, ALIKE: alike}


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Train from both starts; return the decays a token, sorted, of each layer before and after."""
    budget = settings.budget
    text = corpus(notebook.texts, budget.context, settings.tokenizer)

    def trained(start: str) -> Data:
        model = fresh(
            "RWKV-4",
            layers=settings.layers,
            channels=settings.channels,
            vocabulary=text.description.vocabulary_size,
            context=budget.context,
            device=notebook.device,
        )
        STARTS[start](model)
        before = spectra(model)
        curve = train(model, from_windows(text.training[budget.context], budget, notebook.device), budget)
        return {BEGIN: before, END: spectra(model), "losses": curve["losses"]}

    return {
        start: notebook.once(start.replace(" ", "-"), lambda start=start: trained(start)) for start in STARTS
    }


def spectra(model: RWKV4) -> list[list[float]]:
    """Return e^(-e^theta) of every channel, sorted, layer by layer."""
    return [block.att.log_decay(torch.float64).exp().sort().values.tolist() for block in model.layers]


def judge(data: Data) -> list[Check]:
    """Compare the start with its closed form, and the last layer with the first."""
    return [_starts_as_published(data[PUBLISHED][BEGIN]), *(_last_is_slower(data, start) for start in STARTS)]


def _starts_as_published(found: list[list[float]]) -> Check:
    """Compare with theta = -5 + 8 (channel / last)^(0.7 + 1.3 layer / last)."""
    worst = 0.0
    for layer, decays in enumerate(found):
        place = Place.of(layer, len(found), len(decays))
        theta = -5 + 8 * place.spread.double() ** (0.7 + 1.3 * place.rising)
        expected = torch.exp(-torch.exp(theta)).sort().values
        worst = max(worst, float((torch.tensor(decays, dtype=torch.float64) - expected).abs().max()))
    slowest, fastest = max(map(max, found)), min(map(min, found))
    return Check(
        states="before training the decays are e^(-e^theta) of the published theta, to 1e-5",
        paper=f"{math.exp(-math.exp(-5)):.4f} to {math.exp(-math.exp(3)):.1e} at the start",
        ours=f"{slowest:.4f} to {fastest:.1e}",
        holds=worst <= 1e-5,
    )


def _last_is_slower(data: Data, start: str) -> Check:
    """Compare how many channels of the first and of the last layer are slow after training."""
    trained = data[start][END]
    first, last = (fmean(decay > SLOW for decay in layer) for layer in (trained[0], trained[-1]))
    return Check(
        states=f"{start}: in the last layer {CLEAR:.0%} more of the channels keep over {SLOW:.0%} than in "
        "the first",
        paper="first layer mostly near 0, many of the last near 1",
        ours=f"{start}: {last:.0%} in the last layer, {first:.0%} in the first",
        holds=last >= first + CLEAR,
    )


def draw(figure: Figure, data: Data) -> None:
    """Draw the sorted decays of each layer, dotted before training."""
    import matplotlib as mpl

    panels = figure.subplots(1, len(data), sharey=True)
    for axes, (start, found) in zip(panels, data.items(), strict=True):
        layers = len(found[END])
        for layer in range(layers):
            colour = mpl.colormaps["viridis"](0.9 * layer / max(layers - 1, 1))
            channels = [channel / len(found[END][layer]) for channel in range(len(found[END][layer]))]
            axes.plot(channels, found[BEGIN][layer], ":", color=colour, linewidth=0.9)
            axes.plot(channels, found[END][layer], color=colour, label=f"layer {layer}")
        axes.set(title=f"started {start}", xlabel="channels, sorted")
    panels[0].set_ylabel("what a token leaves of the memory")
    panels[0].legend(title="after; dotted: before", title_fontsize=8)


def plan() -> str:
    """The published model of the paper's picture."""
    return (
        "The published 169M model, whose decays are a picture of seconds: `receptance inspect MODEL --text "
        "…` draws them as half-lives for any checkpoint."
    )


CLAIM = Claim(
    name="decay_spectra",
    says="After training, the first layers forget at once and the last ones remember",
    where="(appendix I)",
    settings={
        "tiny": Settings(budget=Budget(steps=250, batch=16, context=128)),
        "cpu": Settings(
            layers=6, channels=192, budget=Budget(steps=3000, batch=16, context=256, learning_rate=2e-3)
        ),
        "gpu": Settings(
            layers=12, channels=512, budget=Budget(steps=4000, batch=32, context=512, learning_rate=1e-3)
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes=(
        "The published start gives the later layers slower channels already. So a second model starts with "
        "the first layer's decays in every layer: what differs between its layers, training has made."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
