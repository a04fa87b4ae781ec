"""`receptance train`: train by a recipe, with a live panel on a terminal and plain lines elsewhere."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from receptance.cli.training_view import LivePanel, PlainLines, duration
from receptance.errors import ReceptanceError

if TYPE_CHECKING:
    from receptance.training import Result, World

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

    Several processes, each on a GPU or some cores of its own, share the samples of a step:
    torchrun --nproc-per-node 4 --no-python receptance train RECIPE

    Parameters
    ----------
    recipe
        A recipe, such as recipes/demo.toml; with --resume the folder of a run.
    overrides
        Keys of the recipe to set otherwise, after the recipe: --optimizer.learning_rate=3e-4 --run.seed=1
    resume
        Go on from the newest snapshot in the folder, exactly as if the run had never stopped.
    """
    from receptance import training

    with training.joined_world() as world:
        try:
            return _train(recipe, overrides, resume, world)
        except ReceptanceError:
            if world.is_first:
                raise
            return 1  # the first process says it


def _train(recipe: Path, overrides: Sequence[str], resume: bool, world: World) -> int:
    """Train, and tell of it in the first process alone."""
    import torch

    from receptance import kernels, training

    config = training.resume_config(recipe, overrides) if resume else training.load_config(recipe, overrides)
    if config.run.tune_allocator:
        kernels.tune_allocator()
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if not world.is_first:
        logging.getLogger("receptance").setLevel(logging.CRITICAL)
        with training.stop_on_signals() as stop:
            return _exit_code(training.train(config, resume=resume, world=world, stop=stop))
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    title = f"Training in {config.run.folder}. Ctrl-C stops it and saves; it can go on later."
    peak = world.size * training.matmul_peak(getattr(torch, config.training.dtype), config.run.device)
    watcher = (LivePanel if console.is_terminal else PlainLines)(console, title, peak)
    with watcher, training.stop_on_signals(_announce_stop) as stop:
        result = training.train(config, resume=resume, world=world, report=watcher.show, stop=stop)
    console.print(_summary(result))
    return _exit_code(result)


def _exit_code(result: Result) -> int:
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
