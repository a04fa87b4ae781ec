"""`receptance quantize`: write a model in few bits, as the native runtime reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from receptance.cli import options, terminal


def quantize(
    source: options.Model,
    destination: Path,
    /,
    *,
    to: Annotated[Literal["int8", "int4", "bfloat16", "float32"], Parameter(name="--format")],
    revision: options.Revision = None,
    tuning: options.Tuning = options.NO_TUNING,
) -> None:
    """Write a model in fewer bits, ready for the native runtime, which uses the file in place.

    int8 and int4 round 32 neighbouring numbers of a row to integers times one scale. Vectors stay float32;
    the embedding and matrices of low rank become bfloat16. The model is never whole in memory. Every command
    reads the result, and convert turns it into what other programs read.

    Parameters
    ----------
    source
        A checkpoint: a file, a folder or a name on a hub.
    destination
        A .safetensors file that does not exist yet. The tokenizer's file goes beside it.
    to
        Number format of the matrices.
    revision
        Branch, tag or commit of a model on a hub; its main branch where none is given.
    tuning
        What was trained on top of the source and is to go into the destination.
    """
    import torch

    from receptance import checkpoints

    model = checkpoints.open_model(source, revision=revision)
    model = checkpoints.Tuning(**asdict(tuning)).applied(model, torch.float32)  # to be rounded once
    with terminal.progress() as report:
        result = checkpoints.quantize(model, destination, to, report=report)
    before, after = result.source, result.destination
    print(terminal.harmless(f"{before.description} -> {after.description}"))
    if result.tokenizer_file is not None:
        print(terminal.harmless(f"tokenizer: {result.tokenizer_file}"))
    sizes = (terminal.bytes_as_text(_size(model.files)) for model in (before, after))
    print(f"{after.num_parameters:,} parameters, {' -> '.join(sizes)}")


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
