"""`receptance convert`: write a model in another format, and say how it was checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from receptance.cli import options, terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.checkpoints import Conversion, PartConversion

Format = Literal["receptance", "pth", "transformers", "transformers-native", "gguf", "rwkv.cpp", "web-rwkv"]
Dtype = Literal["float32", "bfloat16", "float16", "float64", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


def convert(
    source: options.Model,
    destination: Path,
    /,
    *,
    to: Annotated[Format | None, Parameter(name="--format")] = None,
    revision: options.Revision = None,
    dtype: Dtype | None = None,
    tuning: options.Tuning = options.NO_TUNING,
) -> None:
    """Write a model in another format; neither of the two is ever whole in memory.

    What was written is read again and must hold the same numbers to the bit, where the format can; then both
    models read a few fixed tokens, and the largest difference of their logits is printed, with the SHA-256 of
    each file. The tokenizer's file goes along. With --lora and --state, what was trained on top of the model
    goes into it.

    An adapter or a tuned state alone becomes a .pth or .safetensors file, a LoRA also a folder of PEFT.

    Parameters
    ----------
    source
        A checkpoint: a file, a folder or a name on a hub.
    destination
        What does not exist yet: a .safetensors (our format), .pth, .gguf, .bin (rwkv.cpp) or .st file
        (web-rwkv), or a folder: of transformers for RWKV-4, of flash-linear-attention for RWKV-6 and 7.
    to
        The format, where the destination's name does not tell it. transformers-native is the folder of
        RWKV-7 without code of its own.
    revision
        Branch, tag or commit of a model on a hub; its main branch where none is given.
    dtype
        Number format of the matrices, else the source's; vectors stay float32. q… are for gguf and rwkv.cpp.
    tuning
        What was trained on top of the source and is to go into the destination.
    """
    import torch

    from receptance import checkpoints
    from receptance.checkpoints import hub
    from receptance.checkpoints.tuning import parts

    place = hub.local_path(source, revision)
    if parts.read(place) is not None:
        _require_as_it_is(source, replace(tuning, lora_alpha=None), to, dtype)
        _print_part(parts.convert(place, destination, lora_alpha=tuning.lora_alpha))
        return
    is_quantized = dtype is not None and dtype.startswith("q")
    with terminal.progress() as report:
        result = checkpoints.convert(
            source,
            destination,
            format=to,
            dtype=getattr(torch, dtype) if dtype and not is_quantized else None,
            quantization=dtype if is_quantized else None,
            revision=revision,
            tuning=checkpoints.Tuning(**asdict(tuning)),
            report=report,
        )
    _print_model(result)


def _require_as_it_is(source: str, tuning: options.Tuning, *changes: str | None) -> None:
    if tuning != options.NO_TUNING or any(changes):
        raise ConfigError(
            f"{source} is a part of a model and stays as it is: leave out what would change it."
        )


def _print_model(result: Conversion) -> None:
    print(terminal.harmless(f"{result.source.description} -> {result.destination.description}"))
    if result.tokenizer_file is not None:
        print(terminal.harmless(f"tokenizer: {result.tokenizer_file}"))
    print(f"{result.destination.num_parameters:,} parameters, {_fidelity(result)}")
    print(f"largest difference of a logit: {result.largest_difference:.3g}")
    _print_hashes(result.source_sha256 | result.destination_sha256)


def _print_part(result: PartConversion) -> None:
    source, destination = result.source, result.destination
    print(terminal.harmless(f"{source.path} ({source.format}) -> {destination.path} ({destination.format})"))
    print(f"{len(destination.weights)} tensors, read back equal to the bit")
    for key, value in result.lost.items():
        print(terminal.harmless(f"lost: {key} = {value}, for which the destination has no place"))
    _print_hashes(result.source_sha256 | result.destination_sha256)


def _print_hashes(hashes: Mapping[Path, str]) -> None:
    for path, digest in hashes.items():
        print(terminal.harmless(f"{digest}  {path}"))  # as sha256sum prints them


def _fidelity(result: Conversion) -> str:
    if not result.unequal:
        return "read back equal to the bit"
    worst, difference = max(result.unequal.items(), key=lambda item: item[1])
    return (
        f"read back: {len(result.unequal)} of {len(result.destination.weights)} weights are not equal to the "
        f"bit, {worst} by up to {difference:.3g}"
    )
