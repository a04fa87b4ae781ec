"""From a model in any format to one whose matrices are packed in few bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from receptance.checkpoints import packed_weights, writers
from receptance.checkpoints.convert import (
    Report,
    require_free,
    require_same_settings,
    watched,
    write_with_tokenizer,
)
from receptance.checkpoints.load import open_model
from receptance.checkpoints.packed_weights import Formats, Rounding, nearest
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import ConfigError

_LOSSY = ("int8", "int4")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """A model before and after, and the vocabulary that was put beside it, if it has a file."""

    source: StoredModel
    destination: StoredModel
    tokenizer_file: Path | None


def quantize(
    model: StoredModel,
    destination: str | Path,
    formats: Formats,
    *,
    rounding: Rounding = nearest,
    report: Report = lambda stage, done, total: None,
) -> Quantization:
    """Write a model into a file of our own, packed as the native runtime reads it.

    model        as `open_model` gives it, or `Tuning.applied` to that
    destination  a .safetensors file that does not exist yet
    formats      number format of the matrices: one for all, or one for each name; see `packed_weights.packed`
    rounding     makes packed matrices of matrices; see there
    report       is called as it goes on

    The whole model is never in memory, and the file is there whole or not at all. Raises ConfigError when
    the destination exists or is called otherwise, the formats are none of this model, or this is rounded to
    integers already; CheckpointError when a weight cannot be read.
    """
    destination = Path(destination)
    require_quantizable(model, destination)
    packed = packed_weights.packed(watched(model, "quantising", report), formats, rounding)
    tokenizer_file = write_with_tokenizer(destination, packed, "receptance")
    after = open_model(destination)
    require_same_settings(packed, after)
    return Quantization(source=model, destination=after, tokenizer_file=tokenizer_file)


def require_quantizable(model: StoredModel, destination: Path) -> None:
    """Raise ConfigError where `quantize` would refuse this model or this destination."""
    if writers.format_of(destination) != "receptance":
        raise ConfigError(
            f"{destination}: a quantised model is a .safetensors file. For other programs there is convert."
        )
    require_free(destination)
    rounded = [name for name in model.formats.values() if name in _LOSSY]
    if rounded:
        raise ConfigError(
            f"{model.path} is in {rounded[0]} already, and rounding it again would lose more. Quantise the "
            "model that it was made of."
        )
