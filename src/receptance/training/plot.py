"""The picture of one run or of several: loss against tokens, time or FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from receptance import atomic
from receptance.errors import ConfigError
from receptance.training.metrics import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scale = Literal["tokens", "time", "flops"]
# The key of a record, what it is divided by, and the name of the axis.
_SCALES: dict[Scale, tuple[str, float, str]] = {
    "tokens": ("tokens", 1.0, "tokens"),
    "time": ("seconds", 3600.0, "hours"),
    "flops": ("flops", 1.0, "FLOPs of training"),
}
FORMATS = ("png", "svg", "pdf")

# The smooth curve averages over this share of the run.
SMOOTHING = 0.04


def plot_loss(
    runs: Mapping[str, Sequence[Record]],
    path: Path,
    *,
    against: Scale = "tokens",
    logarithmic: bool = False,
    title: str = "",
) -> None:
    """Draw the training and validation losses of runs, by their names, whole or not at all.

    The axis on the left is in bits per byte of text, which vocabularies do not change; with a single run the
    one on the right is in nats per token. The suffix of the path decides the format.

    Raises ConfigError for a suffix of no known format, or where a log does not hold what is asked for.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ConfigError(f"{path}: a picture is one of {', '.join(FORMATS)}; name it so, such as loss.png.")
    # matplotlib takes half a second to import, and most of a run does without.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    key, _, label = _SCALES[against]
    for number, (name, records) in enumerate(runs.items()):
        if any(key not in record for record in _of(records, "training")):
            raise ConfigError(f"{name}: its log does not say {key}, because an older version wrote it.")
        _draw(axes, name if len(runs) > 1 else "", records, against, f"C{number}", f"C{number + 1}")
    if len(runs) == 1:
        _add_nats(axes, *runs.values())
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel("bits per byte")
    if logarithmic:
        axes.set_xscale("log")
    if against == "time":
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", frameon=False)
    with atomic.write(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=120)


def _of(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


def _draw(
    axes: Axes, name: str, records: Sequence[Record], against: Scale, colour: str, validation_colour: str
) -> None:
    """Draw each step lightly, their moving mean over it, and the validation losses as marked points.

    A run without a name stands alone: its two curves have colours and names of their own.
    """
    key, unit, _ = _SCALES[against]
    training, validation = _of(records, "training"), _of(records, "validation")
    if training:
        x = np.array([record[key] for record in training]) / unit
        bits = np.array([record["bits_per_byte"] for record in training])
        axes.plot(x, bits, color=colour, alpha=0.25, linewidth=0.7)
        axes.plot(x, _moving_mean(bits), color=colour, linewidth=1.6, label=name or "training")
    if validation:
        # A validation says when it was and not what it cost: that says the step before it.
        known = {record["step"]: record[key] for record in training}
        places = [record.get(key, known.get(record["step"])) for record in validation]
        shown = [record for record, place in zip(validation, places, strict=True) if place is not None]
        last = f"validation (last {validation[-1]['bits_per_byte']:.3f})"
        axes.plot(
            [place / unit for place in places if place is not None],
            [record["bits_per_byte"] for record in shown],
            color=colour if name else validation_colour,
            marker="o",
            markersize=4,
            linewidth=1.2,
            linestyle="--" if name else "-",
            label=f"{name}, {last}" if name else last,
        )


def _add_nats(axes: Axes, records: Sequence[Record]) -> None:
    """Add the scale in nats per token, which is another for each vocabulary and text."""
    training = _of(records, "training")
    if not training or not training[-1]["bits_per_byte"]:
        return
    nats_per_bit = training[-1]["loss"] / training[-1]["bits_per_byte"]
    scale = axes.secondary_yaxis("right", functions=(lambda y: y * nats_per_bit, lambda y: y / nats_per_bit))
    scale.set_ylabel("nats per token")


def _moving_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean around each value: early, where curves are steep, over as many on either side."""
    index = np.arange(len(values))
    before = np.minimum(int(len(values) * SMOOTHING / 2), index)
    after = np.minimum(before, index[::-1])
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: NDArray[np.float64] = (sums[index + after + 1] - sums[index - before]) / (before + after + 1)
    return means
