"""What the commands share when they write to a terminal: safe text, tables, sizes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

# Control characters and what stands for them: a model may write an escape sequence, which could do anything.
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_VISIBLE |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


def harmless(text: str) -> str:
    """Return the text with control characters made visible, except line breaks and tabs."""
    return text.translate(_VISIBLE)


def write(text: str) -> None:
    """Write a part of a text to standard output at once; harmless on a terminal, untouched elsewhere."""
    encoding = sys.stdout.encoding or "utf-8"
    text = harmless(text) if sys.stdout.isatty() else text
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
    sys.stdout.flush()


def print_json(value: Mapping[str, object]) -> None:
    """Print one object on one line, for programs; characters that the output cannot hold are escaped."""
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "")
    print(json.dumps(value, ensure_ascii=encoding != "utf8", allow_nan=False))


def write_dim(text: str) -> None:
    """Write a text that the user knows already, without the end of a line."""
    Console(highlight=False).print(Text(harmless(text), style="dim"), end="", soft_wrap=True)


def note(text: str) -> None:
    """Write a line for whoever sits at the terminal to standard error; nothing where nobody does."""
    if sys.stderr.isatty():
        Console(stderr=True, highlight=False).print(Text(text, style="dim"), soft_wrap=True)


@contextmanager
def progress(*, counts_bytes: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Show on a terminal, to standard error, what is being done, and how many of its bytes or things are."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True) if counts_bytes else MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("opening", total=None)
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)


def print_facts(title: str, facts: Mapping[str, str]) -> None:
    """Print a title, and names and values in two columns."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(harmless(title), style="bold"))
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        console.print(Text.assemble((f"{name:{width}}", "dim"), "  ", harmless(value)))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str] = ()
) -> None:
    """Print rows under their columns; those named in `numbers` are aligned to the right.

    Lines are not cut to the width of the terminal, so that what is piped on is whole.
    """
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    alignments = [">" if column in numbers else "<" for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (f"{cell:{a}{w}}" for cell, a, w in zip(cells, alignments, widths, strict=True))
        return harmless("  ".join(padded).rstrip())

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(line(columns), style="dim"))
    for row in rows:
        console.print(Text(line(row)))


def bytes_as_text(count: float) -> str:
    """Return a size in the largest unit that leaves at least one of it: 1,536 -> '1.5 KiB'."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"
