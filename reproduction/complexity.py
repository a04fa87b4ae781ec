"""How time and memory of the operators grow, as slopes: `python -m reproduction.complexity`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from receptance import kernels
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.notebook import Notebook
from reproduction.pictures import GPT, RWKV

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Run = Callable[[], object]
HEAD = 64
COLOURS = {"WKV-4": RWKV, "WKV-7": "tab:cyan", "softmax attention": GPT}


@dataclass(frozen=True)
class Settings:
    """Lengths and widths; each slope is that of a line through the logarithms."""

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192)
    channels: int = 128  # while the length grows
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    length: int = 2048  # while the channels grow
    turns: int = 5
    threads: int = 1  # so that starting several takes no part of the time


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Return the times of every operator at every length and width, and what it must remember."""
    torch.set_num_threads(settings.threads)
    by_length = {length: (length, settings.channels) for length in settings.lengths}
    by_width = {width: (settings.length, width) for width in settings.widths}
    return {
        "length": notebook.once("length", lambda: times(by_length, settings.turns, notebook.device)),
        "width": notebook.once("width", lambda: times(by_width, settings.turns, notebook.device)),
        "memory": {
            "RWKV-4": [_bytes_of_state(settings.channels) for _ in settings.lengths],
            "transformer": [2 * 4 * length * settings.channels for length in settings.lengths],
        },
    }


def times(places: dict[int, tuple[int, int]], turns: int, device: str) -> Data:
    """Return the best seconds of each operator at each place (length, channels); the operators take turns."""
    taken: dict[str, dict[int, list[float]]] = {}
    for _ in range(turns):
        for x, (length, channels) in places.items():
            for name, make in OPERATORS.items():
                taken.setdefault(name, {}).setdefault(x, []).append(
                    _seconds(make(length, channels, device), device)
                )
    return {
        "x": list(places),
        "seconds": {name: [min(by_x[x]) for x in places] for name, by_x in taken.items()},
    }


def _seconds(run: Run, device: str) -> float:
    """Return the time of the faster of two runs."""
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _wkv4(length: int, channels: int, device: str) -> Run:
    k, v = torch.randn(2, 1, length, channels, device=device).unbind()
    w, u = -torch.rand(channels, device=device), torch.zeros(channels, device=device)
    sums = torch.zeros(3, 1, channels, device=device)
    sums[2] = -1e30
    return lambda: kernels.wkv4(k, v, w, u, tuple(sums.unbind()))


def _wkv7(length: int, channels: int, device: str) -> Run:
    r, k, v, a = torch.randn(4, 1, length, channels // HEAD, HEAD, device=device).unbind()
    a = F.normalize(a, dim=-1)
    w, b = -torch.rand_like(r), -a * torch.rand_like(a)
    state = torch.zeros(1, channels // HEAD, HEAD, HEAD, device=device)
    return lambda: kernels.wkv7(r, w, k, v, a, b, state)


def _attention(length: int, channels: int, device: str) -> Run:
    q, k, v = torch.randn(3, 1, channels // HEAD, length, HEAD, device=device).unbind()
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)


OPERATORS: dict[str, Callable[[int, int, str], Run]] = {
    "WKV-4": _wkv4,
    "WKV-7": _wkv7,
    "softmax attention": _attention,
}


def _bytes_of_state(channels: int) -> int:
    """Return the bytes of a layer's state after any text: five vectors of float32."""
    from receptance.models import RWKV4, RWKV4Config

    model = RWKV4(RWKV4Config(vocabulary_size=2, num_layers=1, hidden_size=channels))
    return model.initial_state(1).num_bytes


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent of the power law through the points."""
    return statistics.linear_regression([log(value) for value in x], [log(value) for value in y]).slope


def judge(data: Data) -> list[Check]:
    """Compare the exponents with those of table 1, with room for what does not grow."""
    lengths, widths = data["length"], data["width"]
    expected = (
        # operator, what grows, paper, from, to
        ("WKV-4", lengths, "time T¹", "T", 0.85, 1.15),
        ("softmax attention", lengths, "time T²", "T", 1.6, 2.2),
        ("WKV-4", widths, "time d¹", "d", 0.8, 1.2),
    )
    checks = []
    for name, found, paper, grows, least, most in expected:
        exponent = slope(found["x"], found["seconds"][name])
        checks.append(
            Check(
                states=f"{name}: the exponent of the time in {grows} is {least} to {most}",
                paper=f"{name}: {paper}",
                ours=f"{name}: {grows}^{exponent:.2f}",
                holds=least <= exponent <= most,
            )
        )
    memory = {name: slope(lengths["x"], found) for name, found in data["memory"].items()}
    checks.append(
        Check(
            states="what is remembered between tokens does not grow for RWKV, and as T for a transformer",
            paper="memory d and Td",
            ours=", ".join(f"{name}: memory T^{exponent:.2f}" for name, exponent in memory.items()),
            holds=memory["RWKV-4"] == 0 and abs(memory["transformer"] - 1) < 1e-9,
        )
    )
    return checks


def draw(figure: Figure, data: Data) -> None:
    """Draw times over length and width, and memory over length, all in logarithms."""
    panels = figure.subplots(1, 3)
    for axes, key, title in zip(panels, ("length", "width"), ("tokens T", "channels d"), strict=False):
        for name, seconds in data[key]["seconds"].items():
            x = data[key]["x"]
            label = f"{name}: {slope(x, seconds):.2f}"
            axes.loglog(x, [1e3 * value for value in seconds], "o-", color=COLOURS[name], label=label, base=2)
        axes.set(xlabel=title, ylabel="milliseconds", title="time, and its slope")
        axes.legend()
    for (name, found), colour in zip(data["memory"].items(), (RWKV, GPT), strict=True):
        panels[2].loglog(data["length"]["x"], found, "o-", color=colour, label=name, base=2)
    panels[2].set(xlabel="tokens T", ylabel="bytes a layer", title="memory between tokens")
    panels[2].legend()


def plan() -> str:
    """The exponents do not depend on the size of a model."""
    return "Exponents are those of any size; the scale `gpu` goes to 131,072 tokens in a minute on one GPU."


CLAIM = Claim(
    name="complexity",
    says="Time grows as T·d and memory as d, where attention takes T²·d and T·d",
    where="(table 1)",
    settings={
        "tiny": Settings(),
        "cpu": Settings(lengths=(1024, 2048, 4096, 8192, 16384, 32768), turns=9),
        "gpu": Settings(
            lengths=(8192, 16384, 32768, 65536, 131072), channels=1024, widths=(512, 1024, 2048, 4096)
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    is_timed=True,
    notes=(
        "The row of RWKV counts its operator alone, as the paper does: the matrices around it cost T·d² in "
        "every model. Attention reads in parallel here, without a cache."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
