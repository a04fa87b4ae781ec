"""`receptance quantize`: write a model in few bits, as the native runtime reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from receptance.cli import options, terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.checkpoints import Quantization
    from receptance.inference.quality import Agreement

DEFAULT_BITS = 5.0
PICTURES = (".png", ".svg")


TO = Parameter(name="--format", help="Number format of the matrices.")
BITS = Parameter(
    help="What a number may take on average in mixed, with its share of the scales: 4.5 (all int4) to 8.5 "
    f"(all int8); {DEFAULT_BITS:g} where nothing is given."
)
CALIBRATION = Parameter(
    help="A text file of the kind that the model is for: the rounding is fitted to 16,384 tokens of it and "
    "measured by the end. Where none is given, the model writes the text itself."
)
NEAREST = Parameter(
    negative="", help="Round each number to the nearest instead of fitting to a text: faster."
)
REPORT = Parameter(
    help="A file for what was measured (.json) or a picture of it (.png, .svg); the other is put beside it."
)
FORCE = Parameter(negative="", help="Write the model whatever has become of it.")
DESTINATION = Parameter(
    help="A .safetensors file that does not exist yet. The tokenizer's file goes beside it."
)


def quantize(
    source: options.Model,
    destination: Annotated[Path, DESTINATION],
    /,
    *,
    to: Annotated[Literal["int8", "int4", "mixed", "bfloat16", "float32"], TO],
    bits: Annotated[float | None, BITS] = None,
    calibration: Annotated[Path | None, CALIBRATION] = None,
    nearest: Annotated[bool, NEAREST] = False,
    report: Annotated[Path | None, REPORT] = None,
    force: Annotated[bool, FORCE] = False,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    tuning: options.Tuning = options.NO_TUNING,
) -> None:
    """Write a model in fewer bits, ready for the native runtime, which uses the file in place.

    int8 and int4 round 32 neighbouring numbers of a row to integers times one scale; mixed is int8 where it
    helps most and int4 elsewhere. The rounding is fitted to a text, so that the errors of each matrix make up
    for those before. Vectors stay float32; the embedding and matrices of low rank become bfloat16.

    The result is compared with the source over text that it was not fitted to, and not written when it is
    ruined: when it diverges by more than 0.1 nats a token, which is a tenth of its perplexity.

    Every command reads the result, and convert turns it into what other programs read.
    """
    _require_sensible(to, bits, calibration, nearest, report, force)
    if to == "float32" or to == "bfloat16" or (to != "mixed" and nearest and force and not report):
        _print(_streamed(source, destination, to, revision, tuning))
        return
    _fitted(source, destination, to, bits, calibration, nearest, report, force, revision, tokenizer, tuning)


def _fitted(
    source: str,
    destination: Path,
    to: Literal["int8", "int4", "mixed"],
    bits: float | None,
    calibration: Path | None,
    nearest: bool,
    report: Path | None,
    force: bool,
    revision: str | None,
    tokenizer: str | None,
    tuning: options.Tuning,
) -> None:
    """Round with the whole model in memory, see what has become of it, and write it."""
    from receptance import checkpoints
    from receptance.inference import quality, quantizing

    dtype: Literal["float32"] | None = None if tuning == options.NO_TUNING else "float32"  # rounded once
    lm = options.load(source, revision, dtype, "cpu", tokenizer, tuning, "auto")
    checkpoints.require_quantizable(lm.checkpoint, destination)
    with terminal.progress(counts_bytes=False) as progress:
        progress("reading the text" if calibration else "writing a text", 0, 1)
        texts = quantizing.texts_of(lm, None if calibration is None else _text(calibration))
        rounded = quantizing.rounded(
            lm, to, texts, bits=bits or DEFAULT_BITS, to_nearest=nearest, report=progress
        )
        progress("comparing", 0, 1)
        found = None if force and report is None else quantizing.compared(lm, rounded, texts)
    if found is not None and found.is_ruined and not force:
        raise ConfigError(
            f"{to} ruins this model: {_in_words(found)}. At most {quality.WORST_DIVERGENCE} is allowed: "
            "take more bits, or have it written all the same with --force."
        )
    result = checkpoints.quantize(lm.checkpoint, destination, rounded.formats, rounding=rounded.rounding)
    _print(result)
    if found is not None:
        print(_in_words(found))
    if found is not None and report is not None:
        _write_report(report, quantizing.as_report(lm, rounded, found, texts, result.destination))


def _require_sensible(
    to: str, bits: float | None, calibration: Path | None, nearest: bool, report: Path | None, force: bool
) -> None:
    """Raise ConfigError for options that do not go together, before anything takes time."""
    if bits is not None and to != "mixed":
        raise ConfigError(f"--bits is of --format mixed; {to} always takes the same.")
    if bits is not None and not 4.5 <= bits <= 8.5:
        raise ConfigError(f"--bits is {bits:g}, but it must be from 4.5 (all int4) to 8.5 (all int8).")
    if to in ("float32", "bfloat16") and (calibration or nearest or report or force):
        raise ConfigError(f"{to} needs no --calibration, --nearest, --report or --force: little is lost.")
    if report is not None and report.suffix.lower() not in (".json", *PICTURES):
        raise ConfigError(f"--report {report}: it must end in .json, {' or '.join(PICTURES)}.")
    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {report}: there is no folder {report.parent} to write to.")


def _streamed(
    source: str,
    destination: Path,
    to: Literal["int8", "int4", "bfloat16", "float32"],
    revision: str | None,
    tuning: options.Tuning,
) -> Quantization:
    """Round every number to the nearest; the model is never whole in memory."""
    import torch

    from receptance import checkpoints

    model = checkpoints.open_model(source, revision=revision)
    model = checkpoints.Tuning(**asdict(tuning)).applied(model, torch.float32)  # to be rounded once
    with terminal.progress() as progress:
        return checkpoints.quantize(model, destination, to, report=progress)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--calibration {path}: is no text in UTF-8: {error.reason}.") from error


def _write_report(path: Path, content: dict[str, object]) -> None:
    from receptance import atomic
    from receptance.inference.quality_plot import plot_quality

    picture = path if path.suffix.lower() in PICTURES else path.with_suffix(".png")
    figures = path.with_suffix(".json")
    atomic.write_bytes(figures, (json.dumps(content, indent=1) + "\n").encode())
    plot_quality(content, picture)
    print(terminal.harmless(f"report: {figures}, {picture}"))


def _in_words(found: Agreement) -> str:
    before, after = found.perplexity
    return (
        f"perplexity {before:.4g} -> {after:.4g}, divergence {found.divergence:.3g} nats a token, "
        f"{found.same_choice:.1%} of {found.tokens:,} next tokens the same, "
        f"{found.greedy_tokens:.0f} of 200 greedy ones"
    )


def _print(result: Quantization) -> None:
    before, after = result.source, result.destination
    print(terminal.harmless(f"{before.description} -> {after.description}"))
    if result.tokenizer_file is not None:
        print(terminal.harmless(f"tokenizer: {result.tokenizer_file}"))
    sizes = (terminal.bytes_as_text(_size(model.files)) for model in (before, after))
    print(f"{after.num_parameters:,} parameters, {' -> '.join(sizes)}")


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
