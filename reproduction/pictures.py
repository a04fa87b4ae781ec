"""The picture of a claim, as PNG and SVG of the same name beside its result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from receptance import atomic
from reproduction.claim import Claim
from reproduction.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "reproduction",  # the same data gives the same file
}
RWKV, GPT, LSTM = "tab:blue", "tab:orange", "tab:green"  # in every picture


def save_picture(claim: Claim, record: Record, folder: Path) -> None:
    """Draw the data of a record, and write both files, each whole or not at all."""
    # matplotlib takes half a second to import.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        claim.draw(figure, record.data)
        (folder / record.scale).mkdir(parents=True, exist_ok=True)
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            with atomic.write(folder / record.scale / f"{claim.name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=140, metadata=metadata)


def thousands(axes: Axes) -> None:
    """Write the numbers of the horizontal axis out, with their thousands apart."""
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Return running means over a share of a curve, fewer values at its start."""
    window = max(1, round(share * len(values)))
    return [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
