"""From one format to another, and the proof that the model is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from receptance import atomic
from receptance.checkpoints import comparison, gguf, huggingface, writers
from receptance.checkpoints.load import open_model
from receptance.checkpoints.stored_model import StoredModel
from receptance.checkpoints.tuning import NONE, Tuning
from receptance.checkpoints.writers import FormatName
from receptance.errors import CheckpointError, ConfigError, TokenizerError
from receptance.tokenizers import Tokenizer, find_tokenizer, world, world_json

CHAT_TEMPLATE_FILE = "chat_template.jinja"

Report = Callable[[str, int, int], None]  # what is being done, bytes done of it, bytes in all


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted, and how far the results are apart.

    unequal             for each weight that the format could not keep to the bit, the largest difference
    largest_difference  of any logit over a few fixed tokens, both models running in one number format
    source_sha256       of each file with weights, as destination_sha256
    tokenizer_file      the vocabulary that was put beside the destination; folders of transformers have the
                        files that belong to it there too
    """

    source: StoredModel
    destination: StoredModel
    unequal: dict[str, float]
    largest_difference: float
    source_sha256: dict[Path, str]
    destination_sha256: dict[Path, str]
    tokenizer_file: Path | None


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    format: FormatName | None = None,  # noqa: A002 - the word that users look for
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
    revision: str | None = None,
    tuning: Tuning = NONE,
    report: Report = lambda stage, done, total: None,
    **config_overrides: int | float | str,
) -> Conversion:
    """Write a checkpoint in another format (or dtype), read what was written and compare the two.

    format            None takes it from the destination's name: its suffix, or a folder for transformers
    dtype             number format of the matrices; None keeps that of the source
    revision          branch, tag or commit of a source on a hub
    quantization      such as "q8_0", for the formats that have it
    tuning            a tuned state and an adapter that go on top of the source
    report            is called as the conversion goes on
    config_overrides  fields of the config to set otherwise than the source does, such as group_norm_epsilon

    Neither model is ever whole in memory. Raises CheckpointError when the source cannot be read, or what was
    written is not the same to the bit in a format that keeps every bit; ConfigError when the destination
    exists, says nothing about the format or cannot hold the model.
    """
    destination = Path(destination)
    format_name = format or writers.format_of(destination)
    require_free(destination)
    before = tuning.applied(open_model(source, revision=revision, **config_overrides), dtype)
    wanted = before if dtype is None else before.cast(dtype)
    tokenizer_file = write_with_tokenizer(
        destination, watched(wanted, "writing", report), format_name, quantization
    )
    after = open_model(destination)
    require_same_settings(wanted, after)
    unequal = comparison.unequal_weights(watched(wanted, "comparing weights", report), after)
    rounds = writers.WRITERS[format_name].rounds
    if unequal and quantization is None and wanted.config.generation not in rounds:
        raise CheckpointError(
            f"{after.path}: {next(iter(unequal))!r} is not what was written. Is the disk damaged?"
        )
    return Conversion(
        source=before,
        destination=after,
        unequal=unequal,
        largest_difference=_largest_difference(before, after, report),
        source_sha256=sha256(before.files),
        destination_sha256=sha256(after.files),
        tokenizer_file=tokenizer_file,
    )


def require_free(destination: Path) -> None:
    """Raise ConfigError where something is at the destination already."""
    if destination.exists():
        raise ConfigError(f"{destination} exists already. Remove it, or choose another destination.")


def write_with_tokenizer(
    destination: Path, model: StoredModel, format_name: FormatName, quantization: str | None = None
) -> Path | None:
    """Write a model as `writers.write` does, and what belongs to its tokenizer beside it.

    Returns the vocabulary's file, if the tokenizer has one. Raises ConfigError before anything is written
    where another tokenizer's file is there.
    """
    tokenizer = _tokenizer(model)
    files = _tokenizer_files(tokenizer, model, destination, format_name)
    if tokenizer is not None and model.tokenizer is not None:
        model = replace(model, tokenizer=tokenizer.name)  # its file was read, and may be called otherwise
    writers.write(destination, model, format_name, quantization)
    for path, content in files.items():
        atomic.write_bytes(path, content)
    return next(iter(files), None)


def watched(model: StoredModel, stage: str, report: Report) -> StoredModel:
    """Return the model with a report of what share of it was read."""
    total, done = model.num_bytes, 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done = min(done + num_bytes, total)
        report(stage, done, total)

    return model.observed(count)


def require_same_settings(wanted: StoredModel, after: StoredModel) -> None:
    """Raise CheckpointError where a model that was read again has not the settings that were written."""
    if after.config != wanted.config:
        raise CheckpointError(f"{after.path}: it holds {after.config} and not {wanted.config}.")
    if after.tuned_state.keys() != wanted.tuned_state.keys():
        raise CheckpointError(f"{after.path}: its tuned initial state is not what was written.")


def _largest_difference(before: StoredModel, after: StoredModel, report: Report) -> float:
    tokens = comparison.fixed_tokens(before.config.vocabulary_size)
    dtype = comparison.common_dtype(before, after)
    ours, theirs = (
        comparison.logits(watched(model, f"running the {name}", report), tokens, dtype)
        for model, name in ((before, "source"), (after, "result"))
    )
    return float((ours - theirs).abs().max())


def _tokenizer_files(
    tokenizer: Tokenizer | None, model: StoredModel, destination: Path, format_name: FormatName
) -> dict[Path, bytes]:
    """Return the files that belong beside the destination, the vocabulary first, and what they hold."""
    if tokenizer is None:
        return {}  # the weights can be converted without
    with TemporaryDirectory() as folder:
        file = tokenizer.save(Path(folder))
        if file is None:
            return {}
        content = file.read_bytes()
    if not writers.WRITERS[format_name].suffix:  # a folder
        name = huggingface.TOKENIZER_FILE if file.suffix == ".json" else file.name
        return {destination / name: content, **_transformers_files(tokenizer, destination)}
    place = destination.parent / file.name
    if place.is_file() and place.read_bytes().splitlines() != content.splitlines():
        raise ConfigError(f"{place} is not the tokenizer of {model.path}. Choose another destination.")
    return {place: content}


def _transformers_files(tokenizer: Tokenizer, folder: Path) -> dict[Path, bytes]:
    """Return what transformers needs besides, and cannot read from a vocabulary in World's format."""
    if not isinstance(tokenizer, world.WorldTokenizer):
        return {}
    texts = world_json.files(tokenizer)
    if tokenizer.name == world.NAME:
        texts[CHAT_TEMPLATE_FILE] = gguf.CHAT_TEMPLATE
    return {folder / name: text.encode() for name, text in texts.items()}


def _tokenizer(model: StoredModel) -> Tokenizer | None:
    try:
        return find_tokenizer(model.path, model.tokenizer, model.config.vocabulary_size)
    except TokenizerError:
        return gguf.embedded_tokenizer(model.path) if model.format == gguf.FORMAT else None


def sha256(files: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of each file, as sha256sum prints it."""
    hashes = {}
    for path in files:
        with path.open("rb") as file:
            hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
