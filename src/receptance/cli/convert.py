"""`receptance convert`: write a model in another format, and say how it was checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from receptance.cli import options, terminal

if TYPE_CHECKING:
    from receptance.checkpoints import Conversion
    from receptance.checkpoints.stored_model import StoredModel


def convert(
    source: options.Model,
    destination: Path,
    /,
    *,
    to: Annotated[Literal["receptance", "pth", "transformers"] | None, Parameter(name="--format")] = None,
    revision: options.Revision = None,
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None,
) -> None:
    """Write a model in another format: ours, the official .pth or a folder of Hugging Face transformers.

    What was written is loaded again and must hold the same numbers to the bit; then both models read a few
    fixed tokens, and the largest difference of their logits is printed, with the SHA-256 of each file. The
    tokenizer's file goes along.

    Parameters
    ----------
    destination
        A .safetensors file (our format), a .pth file or a folder that does not exist yet (transformers).
    to
        The format, where the destination's name does not tell it.
    dtype
        Number format of the matrices; that of the source where none is given. Vectors stay float32.
    """
    import torch

    from receptance import checkpoints
    from receptance.checkpoints import hub

    result = checkpoints.convert(
        hub.local_path(source, revision),
        destination,
        format=to,
        dtype=getattr(torch, dtype) if dtype else None,
    )
    print(terminal.harmless(f"{_place(result.source)} -> {_place(result.destination)}"))
    if result.tokenizer_file is not None:
        print(terminal.harmless(f"tokenizer: {result.tokenizer_file}"))
    print(f"{result.destination.empty().num_parameters:,} parameters, {_fidelity(result)}")
    print(f"largest difference of a logit: {result.largest_difference:.3g}")
    for path, digest in (result.source_sha256 | result.destination_sha256).items():
        print(terminal.harmless(f"{digest}  {path}"))  # as sha256sum prints them


def _place(model: StoredModel) -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{model.path} ({model.format}, {dtype})"


def _fidelity(result: Conversion) -> str:
    if not result.unequal:
        return "read back equal to the bit"
    worst, difference = max(result.unequal.items(), key=lambda item: item[1])
    return (
        f"read back: {len(result.unequal)} of {len(result.destination.weights)} weights are not equal to the "
        f"bit, {worst} by up to {difference:.3g}"
    )
