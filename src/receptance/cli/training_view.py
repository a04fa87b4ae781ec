"""How a run looks while it goes on: a panel that is kept up to date on a terminal, lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from receptance.cli.terminal import harmless

if TYPE_CHECKING:
    from receptance.training import Progress, Sample, Validation

SECONDS_BETWEEN_LINES = 5.0
REFRESHES_PER_SECOND = 4
SMOOTHING = 0.1  # the latest step's share of the loss and the speed in the panel
WIDEST = 100  # columns of the panel
BARS = "▁▂▃▄▅▆▇█"
CURVE = 40  # columns of the curve of losses
LOSSES = 4096  # that it is drawn of


class PlainLines:
    """Prints a title with the first step and a line now and then: for files, pipes and logs."""

    def __init__(self, console: Console, title: str, peak: float) -> None:
        self.console = console
        self._title = title
        self._peak = peak  # FLOPs a second at which this machine multiplies large matrices
        self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the lines as they are."""

    def show(self, progress: Progress) -> None:
        """Print what a step did, if it is time for a line, or the last; and all that followed the step."""
        self.print_title()
        if time.monotonic() >= self._next_line or progress.share >= 1.0:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self.console.print(self._line(progress))
        self.print_what_followed(progress)

    def print_title(self) -> None:
        """Print the title, once."""
        if self._title:
            self.console.print(self._title)
        self._title = ""

    def print_what_followed(self, progress: Progress) -> None:
        """Print the loss on the text that was held back and what the model wrote, where there is any."""
        if progress.validation is not None:
            found = progress.validation
            line = f"step {found.step:,}: validation {found.loss:.3f} · {found.bits_per_byte:.3f} bits/byte"
            self.console.print(line)
        for sample in progress.samples:
            self.console.print(Text.assemble(f"step {progress.step:,}: ", _sample(sample)))

    def _share_of_peak(self, progress: Progress, tokens_per_second: float) -> float:
        """Return how much of the machine a run makes use of: the model FLOPs utilisation (MFU)."""
        return tokens_per_second * progress.flops / max(progress.tokens, 1) / self._peak

    def _line(self, progress: Progress) -> str:
        """Return what a step did, in one line; what matters least comes last."""
        return " · ".join(
            (
                f"step {progress.step:,}",
                f"loss {progress.loss:.3f}",
                f"{progress.bits_per_byte:.3f} bits/byte",
                f"{duration(progress.seconds_left)} left",
                f"{progress.tokens_per_second:,.0f} tokens/s",
                f"MFU {self._share_of_peak(progress, progress.tokens_per_second):.0%}",
                f"rate {progress.learning_rate:.1e}",
                f"gradient {progress.gradient_norm:.2f}",
            )
        )


class LivePanel(PlainLines):
    """Keeps a panel on the terminal up to date; loss and speed in it are averaged over the last few steps."""

    def __init__(self, console: Console, title: str, peak: float) -> None:
        super().__init__(console, title, peak)
        first = Text("Getting ready. The first step takes longest …", style="dim")
        self._live = Live(first, console=console, refresh_per_second=REFRESHES_PER_SECOND)
        self._loss: float | None = None
        self._tokens_per_second = 0.0
        self._losses: deque[float] = deque(maxlen=LOSSES)
        self._validation: Validation | None = None

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last step on the screen."""
        if self._loss is None:
            self._live.update(Text())
        self._live.__exit__(kind, error, trace)

    def show(self, progress: Progress) -> None:
        """Show what a step did; the terminal is redrawn a few times a second."""
        self.print_title()
        if self._loss is None:
            self._loss, self._tokens_per_second = progress.loss, progress.tokens_per_second
        self._loss += SMOOTHING * (progress.loss - self._loss)
        self._tokens_per_second += SMOOTHING * (progress.tokens_per_second - self._tokens_per_second)
        self._losses.append(progress.loss)
        self._validation = progress.validation or self._validation
        self._live.update(self._panel(progress))
        self.print_what_followed(progress)

    def _panel(self, progress: Progress) -> RenderableType:
        loss = self._loss or 0.0
        bits = progress.bits_per_byte * loss / progress.loss if progress.loss else 0.0
        mfu = self._share_of_peak(progress, self._tokens_per_second)
        facts = Table.grid(padding=(0, 2))
        for _ in range(3):
            facts.add_column(style="dim", no_wrap=True)
            facts.add_column(justify="right", no_wrap=True)
        rows = (
            ("loss", f"{loss:.3f}", "rate", f"{progress.learning_rate:.2e}"),
            ("bits/byte", f"{bits:.3f}", "gradient", f"{progress.gradient_norm:.2f}"),
            ("validation", self._validated(), "tokens/s", f"{self._tokens_per_second:,.0f}"),
        )
        last = (("step", f"{progress.step:,}"), ("tokens", amount(progress.tokens)), ("MFU", f"{mfu:.0%}"))
        for row, fact in zip(rows, last, strict=True):
            facts.add_row(*row, *fact)
        parts = Group(_bar(progress), facts, Text(curve(self._losses), style="blue"))
        return Panel(parts, width=min(self.console.width, WIDEST), border_style="dim")

    def _validated(self) -> str:
        return f"{self._validation.loss:.3f}" if self._validation else "–"


def duration(seconds: float) -> str:
    """Return a time as m:ss or h:mm:ss, or a question mark for one that nobody knows."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def amount(count: float) -> str:
    """Return a number in three digits and a unit: 12,345,678 -> '12.3 M'."""
    for unit in ("", " k", " M", " G"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:,.3g} T"


def curve(losses: deque[float]) -> str:
    """Return the losses as a row of bars, each the mean of an equal part of them."""
    values = list(losses)
    columns = min(CURVE, len(values))
    parts = [values[i * len(values) // columns : (i + 1) * len(values) // columns] for i in range(columns)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def _bar(progress: Progress) -> RenderableType:
    """Return how much is done, and the time that is left."""
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(total=1.0, completed=progress.share, complete_style="green", finished_style="green")
    row.add_row(bar, f"{progress.share:.0%} · {duration(progress.seconds_left)} left")
    return row


def _sample(sample: Sample) -> Text:
    """Return a prompt and how the model went on."""
    return Text.assemble((harmless(sample.prompt), "bold"), harmless(sample.text))
