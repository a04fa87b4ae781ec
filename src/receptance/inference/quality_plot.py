"""The picture of a rounded model: where it goes away from the full one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from receptance import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Any: what JSON holds; see `quantizing.as_report`.
def plot_quality(report: dict[str, Any], path: Path) -> None:
    """Draw a report as a PNG or SVG, by the path's suffix, whole or not at all."""
    # matplotlib takes half a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = report["layers"]
    matrices = list(dict.fromkeys(name for layer in layers for name in layer["matrices"]))
    size = (min(max(7.0, 2.5 + 0.42 * len(layers)), 24), 3.6 + 0.3 * len(matrices))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 0.4 * len(matrices)])
    figure.suptitle(_headline(report), fontsize=10)
    _draw_divergence(above, [layer["divergence"] for layer in layers])
    _draw_errors(below, layers, matrices)
    with atomic.write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=140)


def _headline(report: dict[str, Any]) -> str:
    before, after = (report["perplexity"][key] for key in ("before", "after"))
    sizes = [report["bytes"][key] / 1e6 for key in ("before", "after")]
    speeds = [report["tokens_per_second"][key] for key in ("before", "after")]
    return (
        f"{Path(report['file']).name}: perplexity {before:.4g} \u2192 {after:.4g}, divergence "
        f"{report['divergence']:.2g} nats a token, {report['same_choice']:.1%} the same choice\n"
        f"{sizes[0]:,.1f} \u2192 {sizes[1]:,.1f} MB, {speeds[0]:,.0f} \u2192 {speeds[1]:,.0f} tokens/s"
    )


def _draw_divergence(axes: Axes, divergences: list[float]) -> None:
    """Draw how the divergence grows as layer after layer is rounded."""
    axes.plot(range(len(divergences)), divergences, marker="o", markersize=3, color="tab:blue")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("nats a token")
    axes.set_title("divergence with the layers up to here rounded", fontsize=9)
    axes.grid(alpha=0.25)


def _draw_errors(axes: Axes, layers: list[dict[str, Any]], matrices: list[str]) -> None:
    """Draw the error of each matrix as a colour, with the bits of its numbers in it."""
    errors = np.full((len(matrices), len(layers)), np.nan)
    for column, layer in enumerate(layers):
        for name, matrix in layer["matrices"].items():
            errors[matrices.index(name), column] = matrix["error"]
    image = axes.imshow(100 * errors, aspect="auto", cmap="YlOrRd", vmin=0)
    largest = np.nanmax(errors)
    for column, layer in enumerate(layers):
        for name, matrix in layer["matrices"].items():
            axes.text(
                column,
                matrices.index(name),
                matrix["format"].removeprefix("int"),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if matrix["error"] > 0.6 * largest else "black",
            )
    axes.set_yticks(range(len(matrices)), matrices, fontsize=8)
    axes.set_xticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=8)
    axes.set_xlabel("layer")
    axes.set_title("error of what comes out of each matrix, and the bits of its numbers", fontsize=9)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("% of the output", fontsize=8)
