"""`receptance convert`: write a model in another format, and say how it was checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from receptance.cli import options, terminal

if TYPE_CHECKING:
    from receptance.checkpoints import Conversion


def convert(
    source: options.Model,
    destination: Path,
    /,
    *,
    to: Annotated[
        Literal["receptance", "pth", "transformers", "transformers-native"] | None, Parameter(name="--format")
    ] = None,
    revision: options.Revision = None,
    dtype: Literal["float32", "bfloat16", "float16", "float64", "q8_0", "q4_0"] | None = None,
) -> None:
    """Write a model in another format: ours, the official .pth or a folder of Hugging Face transformers.

    What was written is loaded again and must hold the same numbers to the bit; then both models read a few
    fixed tokens, and the largest difference of their logits is printed, with the SHA-256 of each file. The
    tokenizer's file goes along.

    Parameters
    ----------
    source
        A checkpoint: a file, a folder or a name on a hub.
    destination
        A .safetensors file (our format), a .pth file or a folder that does not exist yet (transformers).
    to
        The format, where the destination's name does not tell it.
    revision
        Branch, tag or commit of a model on a hub; its main branch where none is given.
    dtype
        Number format of the matrices; that of the source where none is given. Vectors stay float32. Formats
        that hold quantised matrices know q8_0 and q4_0 too.
    """
    import torch

    from receptance import checkpoints

    is_quantized = dtype is not None and dtype.startswith("q")
    with _progress() as report:
        result = checkpoints.convert(
            source,
            destination,
            format=to,
            dtype=getattr(torch, dtype) if dtype and not is_quantized else None,
            quantization=dtype if is_quantized else None,
            revision=revision,
            report=report,
        )
    print(terminal.harmless(f"{result.source.description} -> {result.destination.description}"))
    if result.tokenizer_file is not None:
        print(terminal.harmless(f"tokenizer: {result.tokenizer_file}"))
    print(f"{result.destination.empty().num_parameters:,} parameters, {_fidelity(result)}")
    print(f"largest difference of a logit: {result.largest_difference:.3g}")
    for path, digest in (result.source_sha256 | result.destination_sha256).items():
        print(terminal.harmless(f"{digest}  {path}"))  # as sha256sum prints them


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show on a terminal, to standard error, how far the conversion is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("opening", total=None)
        yield lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)


def _fidelity(result: Conversion) -> str:
    if not result.unequal:
        return "read back equal to the bit"
    worst, difference = max(result.unequal.items(), key=lambda item: item[1])
    return (
        f"read back: {len(result.unequal)} of {len(result.destination.weights)} weights are not equal to the "
        f"bit, {worst} by up to {difference:.3g}"
    )
