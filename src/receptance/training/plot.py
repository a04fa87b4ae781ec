"""The picture of a run: loss against tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from receptance import atomic
from receptance.training.metrics import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The smooth curve averages over this share of the run.
SMOOTHING = 0.04


def plot_loss(records: Sequence[Record], path: Path, *, title: str) -> None:
    """Draw the training and validation losses of a run as a PNG, whole or not at all.

    The axis on the left is in bits per byte of text, which vocabularies do not change, the one on the right
    in nats per token.
    """
    # matplotlib takes half a second to import, and most of a run does without.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    training = [record for record in records if record["kind"] == "training"]
    validation = [record for record in records if record["kind"] == "validation"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if training:
        _draw_training(axes, training)
    if validation:
        _draw_validation(axes, validation)
    axes.set_title(title)
    axes.set_xlabel("tokens")
    axes.set_ylabel("bits per byte")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.25)
    if records:
        axes.legend(loc="upper right")
    with atomic.write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_training(axes: Axes, records: Sequence[Record]) -> None:
    """Draw the loss of each step lightly, their moving mean over it, and the scale in nats per token."""
    tokens = np.array([record["tokens"] for record in records])
    bits = np.array([record["bits_per_byte"] for record in records])
    axes.plot(tokens, bits, color="tab:blue", alpha=0.3, linewidth=0.8)
    axes.plot(tokens, _moving_mean(bits), color="tab:blue", linewidth=1.6, label="training")
    nats_per_bit = records[-1]["loss"] / records[-1]["bits_per_byte"]
    scale = axes.secondary_yaxis("right", functions=(lambda y: y * nats_per_bit, lambda y: y / nats_per_bit))
    scale.set_ylabel("nats per token")


def _draw_validation(axes: Axes, records: Sequence[Record]) -> None:
    """Draw the validation losses as marked points, and name the last."""
    tokens = [record["tokens"] for record in records]
    bits = [record["bits_per_byte"] for record in records]
    label = f"validation (last {bits[-1]:.3f})"
    axes.plot(tokens, bits, color="tab:orange", marker="o", markersize=4, linewidth=1.2, label=label)


def _moving_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean around each value: early, where curves are steep, over as many on either side."""
    index = np.arange(len(values))
    before = np.minimum(int(len(values) * SMOOTHING / 2), index)
    after = np.minimum(before, index[::-1])
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: NDArray[np.float64] = (sums[index + after + 1] - sums[index - before]) / (before + after + 1)
    return means
