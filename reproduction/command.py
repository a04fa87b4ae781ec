"""What `python -m reproduction.NAME` does: measure, judge, draw, and bring the report up to date."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from receptance.errors import ConfigError, ReceptanceError
from reproduction.claim import SCALES, Claim, NotAtHandError
from reproduction.notebook import Notebook
from reproduction.pictures import save_picture
from reproduction.record import FOLDER, Record, versions
from reproduction.report import write_report

RUNS = Path("runs/reproduction")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of one claim and of all of them."""
    scales = "; ".join(f"{name}: {about}" for name, about in SCALES.items())
    parser.add_argument("--scale", choices=SCALES, default="tiny", help=f"{scales} (default: tiny)")
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    parser.add_argument(
        "--text",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="train on these, in any form that `receptance prepare` reads (default: Python's own sources)",
    )
    parser.add_argument(
        "--results", type=Path, default=FOLDER, help="where results go (default: %(default)s)"
    )


def main(claim: Claim, words: Sequence[str] | None = None) -> int:
    """Run one claim as the words of a command line say. Returns the exit code of the process."""
    parser = argparse.ArgumentParser(prog=f"python -m reproduction.{claim.name}", description=claim.says)
    add_options(parser)
    arguments = parser.parse_args(words)
    try:
        record = reproduce(claim, arguments)
    except ReceptanceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What was measured is kept: the same command goes on.", file=sys.stderr)
        return 130
    show(record)
    return 0


def reproduce(claim: Claim, arguments: argparse.Namespace) -> Record:
    """Return the record of a claim, after writing it, its picture and the report."""
    if arguments.scale == "paper":
        record = Record(
            claim=claim.name, scale="paper", command=command_of(claim, arguments), plan=claim.plan()
        )
    else:
        try:
            record = _measured(claim, arguments)
            save_picture(claim, record, arguments.results)
        except NotAtHandError as error:
            command = command_of(claim, arguments)
            record = Record(claim=claim.name, scale=arguments.scale, command=command, missing=str(error))
    record.save(arguments.results)
    write_report(arguments.results)
    return record


def _measured(claim: Claim, arguments: argparse.Namespace) -> Record:
    import torch

    from receptance.inference.machine import processor

    device, machine = "cpu", processor()
    if arguments.scale == "gpu":
        if not torch.cuda.is_available():
            raise ConfigError("The scale gpu needs a CUDA GPU, and torch sees none here: choose tiny or cpu.")
        device, machine = "cuda", torch.cuda.get_device_name()
    settings = claim.settings[arguments.scale]
    notebook = Notebook(RUNS / arguments.scale / claim.name, settings, device, tuple(arguments.text))
    if arguments.again:
        notebook.forget()
    torch.manual_seed(0)
    data = claim.measure(notebook, settings)
    return Record(
        claim=claim.name,
        scale=arguments.scale,
        command=command_of(claim, arguments),
        seconds=round(notebook.seconds, 1),
        machine=machine,
        versions=versions(),
        settings=asdict(settings),
        checks=tuple(claim.judge(data)),
        data=data,
    )


def command_of(claim: Claim, arguments: argparse.Namespace) -> str:
    """Return the command that gives this result anew."""
    words = ["python", "-m", f"reproduction.{claim.name}", "--scale", arguments.scale]
    if arguments.text:
        words += ["--text", *map(str, arguments.text)]
    return shlex.join(words)


def show(record: Record) -> None:
    """Print what came out."""
    if record.plan:
        print(record.plan)
    if record.missing:
        print(f"not measured: {record.missing}")
    for check in record.checks:
        print(f"{'holds' if check.holds else 'DOES NOT HOLD'}: {check.states}: {check.ours}")
