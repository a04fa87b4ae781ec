"""However it is cut, a text gives the same numbers: `python -m reproduction.parallel_recurrent`."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.models import random_model
from reproduction.notebook import Notebook

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Largest differences that rounding explains, as a share of the largest logit.
BOUNDS = {"float64": 1e-12, "float32": 1e-5}
WAYS = ("token by token", "in random pieces")


@dataclass(frozen=True)
class Settings:
    """The models, and the text that they read."""

    generations: tuple[str, ...] = ("4", "5", "6", "7")
    layers: int = 4
    channels: int = 128
    vocabulary: int = 277
    batch: int = 2
    tokens: int = 256


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Return, by generation and number format, how far apart the ways are."""
    return {
        generation: {
            precision: notebook.once(
                f"rwkv{generation}-{precision}",
                partial(differences, settings, generation, getattr(torch, precision), notebook.device),
            )
            for precision in BOUNDS
        }
        for generation in settings.generations
    }


@torch.inference_mode()
def differences(settings: Settings, generation: str, dtype: torch.dtype, device: str) -> Data:
    """Return the largest logit, and for each way the largest difference at each token."""
    model = random_model(
        settings.layers,
        settings.channels,
        generation=generation,
        vocabulary=settings.vocabulary,
        device=device,
    ).to(dtype)
    tokens = torch.randint(settings.vocabulary, (settings.batch, settings.tokens), device=device)
    parallel, _ = model(tokens)
    by_way = {}
    for way, pieces in zip(WAYS, (tokens.split(1, dim=1), _random_pieces(tokens)), strict=True):
        state, logits = None, []
        for piece in pieces:
            piece_logits, state = model(piece, state)
            logits.append(piece_logits)
        by_way[way] = (torch.cat(logits, dim=1) - parallel).abs().amax((0, 2)).tolist()
    return {"largest_logit": float(parallel.abs().max()), "difference": by_way}


def _random_pieces(tokens: torch.Tensor) -> Sequence[torch.Tensor]:
    """Cut a batch at random places in time."""
    time = tokens.shape[1]
    cuts = sorted(random.Random(0).sample(range(1, time), min(9, time - 1)))
    return tokens.tensor_split(cuts, dim=1)


def judge(data: Data) -> list[Check]:
    """Compare the largest difference of all with the bound of the number format."""
    checks = []
    for precision, bound in BOUNDS.items():
        largest = {
            generation: max(max(by_token) / found[precision]["largest_logit"] for by_token in ways)
            for generation, found in data.items()
            if (ways := found[precision]["difference"].values())
        }
        worst = max(largest.values())
        checks.append(
            Check(
                states=f"in {precision} no logit moves by more than {bound:g} of the largest",
                paper="equal",
                ours=f"{worst:.1e} in {precision}, of generations {', '.join(largest)}",
                holds=worst <= bound,
            )
        )
    return checks


def draw(figure: Figure, data: Data) -> None:
    """Draw the difference at each token, a panel a generation."""
    panels = figure.subplots(1, len(data), sharey=True)
    for axes, (generation, found) in zip(panels, data.items(), strict=True):
        for colour, (precision, one) in zip(("tab:blue", "tab:purple"), found.items(), strict=True):
            for style, (way, by_token) in zip(("-", ":"), one["difference"].items(), strict=True):
                # What is equal to the bit has no place on a logarithmic axis.
                shares = [value / one["largest_logit"] or None for value in by_token]
                axes.plot(shares, style, color=colour, linewidth=0.8, label=f"{precision}, {way}")
        axes.set(title=f"RWKV-{generation}", xlabel="token", yscale="log")
    panels[0].set_ylabel("difference / largest logit")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def plan() -> str:
    """The claim is about arithmetic, which is the same at every size."""
    return "`receptance verify MODEL` shows it for any checkpoint, from 169M (seconds) to 14B (minutes)."


CLAIM = Claim(
    name="parallel_recurrent",
    says="Trained in parallel like a transformer, run as an RNN: both ways compute the same",
    where="(section 4)",
    settings={
        "tiny": Settings(),
        "cpu": Settings(layers=12, channels=768, tokens=1024),
        "gpu": Settings(layers=24, channels=1024, tokens=2048),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
