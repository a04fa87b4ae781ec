"""Gradients of a layer are bounded, whatever the length: `python -m reproduction.gradient_bounds`.

Without its token shift, wkv_T is a mean E of the values v_t = Wv x_t with weights that sum to one. So its
gradient by Wv is E[x], which no length makes larger than the largest x, and that by Wk is the covariance of
x and v under the same weights.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from receptance import kernels
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.complexity import slope
from reproduction.notebook import Notebook

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Settings:
    """Lengths, width, and how many random layers are tried at each."""

    lengths: tuple[int, ...] = (16, 64, 256, 1024, 4096, 16384)
    channels: int = 16
    seeds: int = 3


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Return what was found in each layer at each length."""
    return {
        "layers": notebook.once(
            "layers",
            lambda: [
                layer(length, settings.channels, seed, notebook.device)
                for length in settings.lengths
                for seed in range(settings.seeds)
            ],
        )
    }


def layer(length: int, channels: int, seed: int, device: str) -> Data:
    """Take the gradients of wkv_T by autograd, and compare them with the closed forms in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(device)

    x, key, value, u = (
        draw(length, channels),
        draw(channels, channels),
        draw(channels, channels),
        draw(channels),
    )
    key, value = (matrix.requires_grad_() for matrix in (key, value))
    w = -torch.exp(torch.linspace(-5, 3, channels, dtype=torch.float64, device=device))  # as training begins
    k, v = x @ key.T, x @ value.T
    sums = torch.zeros(3, 1, channels, dtype=torch.float64, device=device)
    sums[2] = -1e30
    wkv, _ = kernels.wkv4(k[None], v[None], w, u, (sums[0], sums[1], sums[2]))
    # Row i of each matrix moves channel i alone, so the sum over channels has every gradient in its place.
    wkv[0, -1].sum().backward()
    age = length - 2 - torch.arange(length, dtype=torch.float64, device=device)
    exponents = k.detach() + age[:, None] * w
    exponents[-1] = k.detach()[-1] + u
    weights = exponents.softmax(0)  # [time, channel]
    mean = weights.T @ x  # [channel of wkv, channel of x]
    covariance = (weights * v.detach()).T @ x - (weights * v.detach()).sum(0)[:, None] * mean
    ranges = v.detach().amax(0) - v.detach().amin(0)
    return {
        "length": length,
        "value": float((value.grad.abs() / x.abs().amax(0)).max()),
        "key": float((key.grad.abs() / (ranges[:, None] * (x.amax(0) - x.amin(0)) / 4)).max()),
        "largest": [float(value.grad.abs().max()), float(key.grad.abs().max())],
        "error": max(float((value.grad - mean).abs().max()), float((key.grad - covariance).abs().max())),
    }


def judge(data: Data) -> list[Check]:
    """Hold the gradients to their closed forms and bounds."""
    layers = data["layers"]
    error = max(one["error"] for one in layers)
    shares = [max(one[key] for one in layers) for key in ("value", "key")]
    lengths = [one["length"] for one in layers]
    growth = [slope(lengths, [one["largest"][place] for one in layers]) for place in (0, 1)]
    return [
        Check(
            states="the gradients are E[x] and cov(x, v) to 1e-10",
            paper="∂wkv/∂Wv = E[x], ∂wkv/∂Wk = cov(x, v)",
            ours=f"largest difference {error:.0e}",
            holds=error < 1e-10,
        ),
        Check(
            states="by Wv it is at most the largest x, by Wk at most a quarter of the two ranges multiplied",
            paper="bounded, whatever T",
            ours=f"at most {shares[0]:.2f} and {shares[1]:.2f} of the bounds",
            holds=max(shares) <= 1,
        ),
        Check(
            states="the largest gradient does not grow with the length: its exponent in T is below 0.1",
            paper="independent of T",
            ours=f"T^{growth[0]:+.2f} by Wv, T^{growth[1]:+.2f} by Wk, to {max(lengths):,} tokens",
            holds=max(growth) < 0.1,
        ),
    ]


def draw(figure: Figure, data: Data) -> None:
    """Draw the largest gradients, and their share of the bounds, over the length."""
    sizes, shares = figure.subplots(1, 2)
    lengths = [one["length"] for one in data["layers"]]
    for place, (name, key) in enumerate((("by Wv", "value"), ("by Wk", "key"))):
        sizes.loglog(lengths, [one["largest"][place] for one in data["layers"]], "o", label=name, base=2)
        shares.semilogx(lengths, [one[key] for one in data["layers"]], "o", label=name, base=2)
    sizes.set(xlabel="tokens T", ylabel="largest gradient of wkv_T")
    shares.axhline(1, color="grey", linestyle="--", linewidth=0.8)
    shares.set(xlabel="tokens T", ylabel="share of the bound", ylim=(0, 1.1))
    sizes.legend()


def plan() -> str:
    """The claim is a theorem about one layer."""
    return "It is an identity of one layer, shown at every scale; no training is needed."


CLAIM = Claim(
    name="gradient_bounds",
    says="Gradients are bounded, whatever the length of the text",
    where="(appendix H)",
    settings={
        "tiny": Settings(),
        "cpu": Settings(lengths=(16, 64, 256, 1024, 4096, 16384, 65536), channels=64, seeds=10),
        "gpu": Settings(lengths=(16, 64, 256, 1024, 4096, 16384, 65536), channels=256, seeds=10),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
