"""`receptance train`: train by a recipe, with a live line on a terminal and plain lines elsewhere."""

from __future__ import annotations

import math
import shlex
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from receptance.training import Progress, Result

SECONDS_BETWEEN_LINES = 5.0
REFRESHES_PER_SECOND = 8
BAR_WIDTH = 6
SMOOTHING = 0.1  # the latest step's share of the loss on the live line
# The exit code of a run that was asked to stop, and did, with everything saved: that of Ctrl-C in a shell.
INTERRUPTED = 130


def train(
    recipe: Path,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True)],
    resume: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a model by a recipe, or go on with a run that was stopped.

    A run keeps all it makes in one folder: config.toml, metrics.jsonl, loss.png, model.safetensors and
    snapshot.safetensors. Ctrl-C (or SIGTERM) ends it after the current step with everything saved and the
    exit code 130; a second one ends it at once.

    Parameters
    ----------
    recipe
        A recipe, such as recipes/demo.toml; with --resume the folder of a run.
    overrides
        Keys of the recipe to set otherwise, after the recipe: --optimizer.learning_rate=3e-4 --run.seed=1
    resume
        Go on from the snapshot in the folder, exactly as if the run had never stopped.
    """
    import torch

    from receptance import kernels, training

    config = training.resume_config(recipe, overrides) if resume else training.load_config(recipe, overrides)
    if config.run.tune_allocator:
        kernels.tune_allocator()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    title = f"Training in {config.run.folder}. Ctrl-C stops it and saves; it can go on later."
    watcher = LiveLine(console, title) if console.is_terminal else PlainLines(console, title)
    with watcher, training.stop_on_signals(_announce_stop) as stop:
        result = training.train(config, resume=resume, report=watcher.show, stop=stop)
    console.print(_summary(result))
    return INTERRUPTED if result.interrupted else 0


def _announce_stop() -> None:
    print("\nStopping after this step. Once more stops at once, without saving.", file=sys.stderr)


class PlainLines:
    """Prints a title with the first step and a line now and then: for files, pipes and logs."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self._title = title
        self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the lines as they are."""

    def show(self, progress: Progress) -> None:
        """Print what a step did, if it is time for a line, or the last."""
        self.print_title()
        if time.monotonic() >= self._next_line or progress.share >= 1.0:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self.console.print(_line(progress, progress.loss, progress.bits_per_byte))
        self.print_validation(progress)

    def print_title(self) -> None:
        """Print the title, once."""
        if self._title:
            self.console.print(self._title)
        self._title = ""

    def print_validation(self, progress: Progress) -> None:
        """Print the loss on the text that was held back, where it was measured."""
        found = progress.validation
        if found is not None:
            line = f"step {found.step:,}: validation {found.loss:.3f} · {found.bits_per_byte:.3f} bits/byte"
            self.console.print(line)


class LiveLine(PlainLines):
    """Keeps one line of the terminal up to date; losses in it are averaged over the last few steps."""

    def __init__(self, console: Console, title: str) -> None:
        super().__init__(console, title)
        first = Text("Getting ready. The first step takes longest …", style="dim")
        self._live = Live(first, console=console, refresh_per_second=REFRESHES_PER_SECOND)
        self._loss: float | None = None

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
        before = progress.loss if self._loss is None else self._loss
        self._loss = before + SMOOTHING * (progress.loss - before)
        bits_per_byte = progress.bits_per_byte * self._loss / progress.loss if progress.loss else 0.0
        bar = Text("━" * BAR_WIDTH, style="dim")
        bar.stylize("green", 0, round(BAR_WIDTH * progress.share))
        line = Text.assemble(bar, " ", _line(progress, self._loss, bits_per_byte))
        line.no_wrap, line.overflow = True, "ellipsis"
        self._live.update(line)
        self.print_validation(progress)


def _line(progress: Progress, loss: float, bits_per_byte: float) -> str:
    """Return what a step did, in one line; what matters least comes last."""
    return " · ".join(
        (
            f"step {progress.step:,}",
            f"loss {loss:.3f}",
            f"{bits_per_byte:.3f} bits/byte",
            f"{_duration(progress.seconds_left)} left",
            f"{progress.tokens_per_second:,.0f} tokens/s",
            f"rate {progress.learning_rate:.1e}",
            f"gradient {progress.gradient_norm:.2f}",
        )
    )


def _duration(seconds: float) -> str:
    """Return a time as m:ss or h:mm:ss, or a question mark for one that nobody knows."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _summary(result: Result) -> str:
    """Return how a session ended, where everything is, and what to type next."""
    folder = result.folder
    ended = "Stopped" if result.interrupted else "Finished"
    lines = [f"{ended} after {result.step:,} steps, {result.tokens:,} tokens, {_duration(result.seconds)}."]
    if result.validation is not None:
        found = result.validation
        lines.append(
            f"Validation at step {found.step:,}: {found.loss:.4f} nats a token, "
            f"{found.bits_per_byte:.4f} bits a byte."
        )
    lines += [
        f"  model    {folder.checkpoint}",
        f"  metrics  {folder.metrics}",
        f"  picture  {folder.plot}",
    ]
    if result.interrupted:
        lines.append(f"Go on:     receptance train --resume {shlex.quote(str(folder.path))}")
    lines.append(
        f"Generate:  receptance generate {shlex.quote(str(folder.path))} --prompt 'Once upon a time'"
    )
    return "\n".join(lines)
