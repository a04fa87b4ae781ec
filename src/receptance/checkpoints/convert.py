"""From one format to another, and the proof that the model is still the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from receptance import atomic
from receptance.checkpoints import huggingface
from receptance.checkpoints.formats import FormatName
from receptance.checkpoints.load import Checkpoint, load
from receptance.checkpoints.save import save
from receptance.errors import CheckpointError, ConfigError, TokenizerError
from receptance.models import AnyModel
from receptance.tokenizers import find_tokenizer

_NUM_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted, and how far the results are apart."""

    source: Checkpoint
    destination: Checkpoint
    largest_difference: float  # of any logit over a few fixed tokens: what the dtype cost, or rounding alone
    source_sha256: dict[Path, str]  # of each file with weights
    destination_sha256: dict[Path, str]
    tokenizer_file: Path | None  # the vocabulary that was put beside the destination


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    format: FormatName | None = None,  # noqa: A002 - the word that users look for
    dtype: torch.dtype | None = None,
) -> Conversion:
    """Write a checkpoint in another format (or dtype), load what was written and compare the two.

    format  None takes it from the destination: `.safetensors`, `.pth`, or a folder for transformers

    Raises CheckpointError when the source cannot be loaded, or what was written is not the same to the bit;
    ConfigError when the destination exists, says nothing about the format or cannot hold the model.
    """
    destination = Path(destination)
    format_name = format or _format_of(destination)
    if destination.exists():
        raise ConfigError(f"{destination} exists already. Remove it, or choose another destination.")
    before = load(source, dtype=dtype)
    vocabulary = _vocabulary(before, destination, format_name)
    save(
        before.model,
        destination,
        tokenizer=before.tokenizer,
        metadata=before.metadata,
        format=format_name,
    )
    if vocabulary is not None:
        atomic.write_bytes(*vocabulary)
    after = load(destination)
    original = before if dtype is None else load(source)
    _require_same(before, after)
    return Conversion(
        source=original,
        destination=after,
        largest_difference=_largest_difference(original.model, after.model),
        source_sha256=_sha256(original),
        destination_sha256=_sha256(after),
        tokenizer_file=None if vocabulary is None else vocabulary[0],
    )


def _vocabulary(
    checkpoint: Checkpoint, destination: Path, format_name: FormatName
) -> tuple[Path, bytes] | None:
    """Return the vocabulary file that belongs beside the destination, and what it holds, if there is one."""
    try:
        rows = checkpoint.model.config.vocabulary_size
        tokenizer = find_tokenizer(checkpoint.path, checkpoint.tokenizer, rows)
    except TokenizerError:
        return None  # the weights can be converted without
    with TemporaryDirectory() as folder:
        file = tokenizer.save(Path(folder))
        if file is None:
            return None
        content = file.read_bytes()
    if format_name == "transformers":
        return destination / (huggingface.TOKENIZER_FILE if file.suffix == ".json" else file.name), content
    place = destination.parent / file.name
    if place.is_file() and place.read_bytes() != content:
        raise ConfigError(f"{place} is not the tokenizer of {checkpoint.path}. Choose another destination.")
    return place, content


def _format_of(destination: Path) -> FormatName:
    suffix = destination.suffix
    if suffix == ".safetensors":
        return "receptance"
    if suffix == ".pth":
        return "pth"
    if not suffix[1:2].isalpha():  # none, or a number such as in rwkv-4.0
        return "transformers"
    raise ConfigError(
        f"{destination}: {suffix!r} says nothing about the format. "
        "Use .safetensors, .pth or a folder without suffix, or give the format."
    )


def _require_same(before: Checkpoint, after: Checkpoint) -> None:
    if before.model.config != after.model.config:
        raise CheckpointError(f"{after.path}: it holds {after.model.config} and not {before.model.config}.")
    written = after.model.state_dict()
    for name, tensor in before.model.state_dict().items():
        if tensor.dtype != written[name].dtype or not torch.equal(tensor, written[name]):
            raise CheckpointError(f"{after.path}: {name!r} is not what was written. Is the disk damaged?")


@torch.inference_mode()
def _largest_difference(one: AnyModel, other: AnyModel) -> float:
    vocabulary: int = one.config.vocabulary_size
    tokens = (torch.arange(_NUM_TOKENS) * 7919 % vocabulary).unsqueeze(0)  # a prime stride visits many rows
    (ours, _), (theirs, _) = one(tokens), other(tokens)
    return float((ours.double() - theirs.double()).abs().max())


def _sha256(checkpoint: Checkpoint) -> dict[Path, str]:
    hashes = {}
    for path in checkpoint.files:
        with path.open("rb") as file:
            hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
