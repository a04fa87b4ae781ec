"""`receptance train`: train by a recipe, with a live panel on a terminal and plain lines elsewhere."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from receptance.cli.training_view import LivePanel, PlainLines, duration

if TYPE_CHECKING:
    from receptance.training import Result

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
    snapshots. It can be killed at any moment: --resume goes on from the newest snapshot that is whole.

    Exit codes: 0 finished; 130 told to stop by Ctrl-C, SIGTERM or SIGUSR1, saved within a step, can go on;
    1 an error that the message explains, such as a full disk, with the last snapshot as it was. A second
    Ctrl-C ends the run at once.

    Parameters
    ----------
    recipe
        A recipe, such as recipes/demo.toml; with --resume the folder of a run.
    overrides
        Keys of the recipe to set otherwise, after the recipe: --optimizer.learning_rate=3e-4 --run.seed=1
    resume
        Go on from the newest snapshot in the folder, exactly as if the run had never stopped.
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
    peak = training.matmul_peak(getattr(torch, config.training.dtype), config.run.device)
    watcher = (LivePanel if console.is_terminal else PlainLines)(console, title, peak)
    with watcher, training.stop_on_signals(_announce_stop) as stop:
        result = training.train(config, resume=resume, report=watcher.show, stop=stop)
    console.print(_summary(result))
    return INTERRUPTED if result.interrupted else 0


def _announce_stop() -> None:
    print("\nStopping after this step. Ctrl-C once more stops at once, without saving.", file=sys.stderr)


def _summary(result: Result) -> str:
    """Return how a session ended, where everything is, and what to type next."""
    folder = result.folder
    ended = "Stopped" if result.interrupted else "Finished"
    lines = [f"{ended} after {result.step:,} steps, {result.tokens:,} tokens, {duration(result.seconds)}."]
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
