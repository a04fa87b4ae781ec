"""What every benchmark does with its report: each line is shown, and kept if asked, when it is known."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from receptance import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_numbers(parser: ArgumentParser, defaults: Mapping[str, int]) -> None:
    """Add an option for each number, and one for the threads."""
    for name, default in {**defaults, "threads": os.cpu_count() or 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default: {default})")


def add_output(parser: ArgumentParser) -> None:
    """Add the option for the file to keep the report in."""
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report here too")


def setting(module: str, threads: int) -> Iterator[str]:
    """Yield what figures mean little without: the command, the machine, and the versions of what ran."""
    import torch

    from receptance import native
    from receptance.inference.machine import processor

    yield f"`{' '.join([f'python -m benchmarks.{module}', *sys.argv[1:]])}`"
    yield ""
    features = native.level() if native.library() else native.unavailable_reason()
    yield (
        f"{processor()}, {threads} {'thread' if threads == 1 else 'threads'}, native library at level "
        f"{features}; Python {platform.python_version()}, torch {torch.__version__}."
    )


def picture(title: str, figure: Figure, report: Path) -> Iterator[str]:
    """Keep a picture beside the report, and yield the lines that show it there."""
    report.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(report.with_suffix(suffix), dpi=150)
    yield ""
    yield f"![{title}]({report.with_suffix('.png').name})"


class Interim(str):
    """A line of what is known so far, which the finished report does without."""


def publish(title: str, lines: Iterable[str], output: Path | None) -> None:
    """Print the lines as they come, and write them under a title.

    Until all are there, those that are stand in `NAME.unfinished.md` beside the output, so that a benchmark
    which is interrupted loses none, and the report before it is still there.
    """
    unfinished = output and output.with_suffix(f".unfinished{output.suffix}")
    kept: list[str] = []
    for text in lines:
        print(text, flush=True, file=sys.stderr if isinstance(text, Interim) else sys.stdout)
        kept.append(text)
        if unfinished:
            _write(unfinished, title, kept)
    if output and unfinished:
        _write(output, title, [text for text in kept if not isinstance(text, Interim)])
        unfinished.unlink(missing_ok=True)


def _write(path: Path, title: str, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, f"# {title}\n\n" + "\n".join(lines) + "\n")


def milliseconds(taken: Sequence[float]) -> list[str]:
    """Return the cells for best and median."""
    return [
        f"{1e3 * x:.3g}" if x < 0.1 else f"{1e3 * x:,.0f}" for x in (min(taken), statistics.median(taken))
    ]


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
