"""Parameters and FLOPs, against the paper's table: `python -m reproduction.parameters_flops`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from receptance.training import flops_per_token
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.models import PAPER_SIZES, PILE_VOCABULARY, random_model, shape_of
from reproduction.notebook import Notebook
from reproduction.plan import cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Table 2: parameters, and the FLOPs of a token forwards.
PAPER = {
    "169M": ("1.693e+08", "2.613e+08"),
    "430M": ("4.304e+08", "7.573e+08"),
    "1.5B": ("1.515e+09", "2.823e+09"),
    "3B": ("2.985e+09", "5.710e+09"),
    "7B": ("7.393e+09", "1.437e+10"),
    "14B": ("1.415e+10", "2.778e+10"),
}
PILE_TOKENS = 332_115_325_534


@dataclass(frozen=True)
class Settings:
    """The sizes, and the one whose FLOPs torch counts while it reads."""

    sizes: tuple[str, ...] = tuple(PAPER)
    counted: str = "169M"
    tokens: int = 8


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Return the numbers of each size, from shapes alone, and what torch counts."""
    return {
        "sizes": {name: numbers(name) for name in settings.sizes},
        "counted": notebook.once("counted", lambda: counted(settings, notebook.device)),
    }


def numbers(name: str) -> Data:
    """Return parameters and FLOPs of our model, the parameters of transformers' and the paper's formula."""
    from transformers import RwkvConfig, RwkvForCausalLM

    layers, channels = PAPER_SIZES[name]
    model = shape_of(layers, channels)
    with torch.device("meta"):
        theirs = RwkvForCausalLM(
            RwkvConfig(vocab_size=PILE_VOCABULARY, hidden_size=channels, num_hidden_layers=layers)
        )
    return {
        "parameters": model.num_parameters,
        "of_transformers": theirs.num_parameters(),
        "of_formula": 2 * PILE_VOCABULARY * channels
        + 13 * channels**2 * layers
        + channels * (11 * layers + 4),
        "flops": flops_per_token(model) // 3,
    }


@torch.inference_mode()
def counted(settings: Settings, device: str) -> Data:
    """Return the FLOPs of a token that torch counts in the products of a real forward pass."""
    model = random_model(*PAPER_SIZES[settings.counted], device=device)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, settings.tokens, dtype=torch.int64, device=device))
    return {"size": settings.counted, "flops": counter.get_total_flops() / settings.tokens}


def judge(data: Data) -> list[Check]:
    """Compare digit by digit."""
    sizes = data["sizes"]
    checks = []
    for place, key, what in ((0, "parameters", "parameters"), (1, "flops", "FLOPs of a token forwards")):
        ours = {name: f"{found[key]:.3e}" for name, found in sizes.items()}
        paper = {name: PAPER[name][place] for name in sizes}
        checks.append(
            Check(
                states=f"{what}: every digit of table 2",
                paper=f"{what}: {', '.join(paper.values())}",
                ours=f"{what}: {', '.join(f'{found[key]:,}' for found in sizes.values())}",
                holds=ours == paper,
            )
        )
    same = all(
        found["parameters"] == found["of_formula"] == found["of_transformers"] for found in sizes.values()
    )
    counted = data["counted"]
    checks.append(
        Check(
            states="as many parameters as 2VD + 13D²L + D(11L + 4) says, and as transformers' RWKV-4 has",
            paper="2VD + 13D²L + D(11L + 4)",
            ours="equal" if same else "not equal",
            holds=same,
        )
    )
    checks.append(
        Check(
            states=f"torch counts as many FLOPs while the {counted['size']} model reads",
            paper="",
            ours=f"{counted['flops']:,.0f} counted",
            holds=counted["flops"] == sizes[counted["size"]]["flops"],
        )
    )
    return checks


def draw(figure: Figure, data: Data) -> None:
    """Draw FLOPs over parameters, the paper's as rings."""
    axes = figure.subplots()
    x, y = ([float(PAPER[name][place]) for name in data["sizes"]] for place in (0, 1))
    axes.loglog(x, y, "o", markersize=12, fillstyle="none", color="grey", label="the paper, table 2")
    sizes = data["sizes"].values()
    axes.loglog([s["parameters"] for s in sizes], [s["flops"] for s in sizes], "x", label="ours")
    for name, a, b in zip(data["sizes"], x, y, strict=True):
        axes.annotate(name, (a, b), xytext=(10, -10), textcoords="offset points", fontsize=8)
    axes.set(xlabel="parameters", ylabel="FLOPs a token, forwards")
    axes.legend()


def plan() -> str:
    """The cost of training the six models once on the Pile."""
    trainings = {
        name: flops_per_token(shape_of(*PAPER_SIZES[name])) * float(PILE_TOKENS) for name in PAPER_SIZES
    }
    each = "; ".join(f"{name} {cost(flops)}" for name, flops in trainings.items())
    billions = PILE_TOKENS / 1e9
    return (
        f"The table is exact at any scale. Training the six models on {billions:.0f} billion tokens: {each}."
    )


CLAIM = Claim(
    name="parameters_flops",
    says="Parameters and FLOPs of the six models",
    where="(table 2)",
    settings={"tiny": Settings(), "cpu": Settings(counted="430M"), "gpu": Settings(counted="1.5B")},
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    notes=(
        "The text of the paper's second version counts the embedding too, 2(2VD + 13D²L), which does not "
        "give its own table; 2(VD + 13D²L) does, and is what is compared here."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
