"""`receptance plot`: the losses of runs in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from receptance.errors import ConfigError


def plot(
    *runs: Path,
    against: Literal["tokens", "time", "flops"] = "tokens",
    output: Path = Path("loss.png"),
    log: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw the losses of one run, or of several together.

    Parameters
    ----------
    runs
        Folders of runs, finished or not.
    against
        What the loss is drawn over: tokens read, hours spent, or FLOPs of training.
    output
        The picture: .png, .svg or .pdf.
    log
        Draw that axis logarithmically.
    """
    from receptance.training.metrics import read_metrics
    from receptance.training.plot import plot_loss
    from receptance.training.run_folder import RunFolder

    if not runs:
        raise ConfigError("no run is named. Write receptance plot RUN …, the folders of one run or several.")
    records = {}
    for name, run in zip(_names(runs), runs, strict=True):
        path = RunFolder(run).metrics
        if not path.is_file():
            raise ConfigError(f"{run} holds no run: there is no {path.name}.")
        records[name] = read_metrics(path)
    title = next(iter(records)) if len(runs) == 1 else ""
    plot_loss(records, output, against=against, logarithmic=log, title=title)
    print(output)


def _names(runs: tuple[Path, ...]) -> list[str]:
    """Return the shortest ends of paths by which the runs can be told apart."""
    parts = [run.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("a run is named twice.")
