"""What `data.json` says of a prepared folder: the tokenizer, what each split holds, and what made it.

DIR/train.bin, train.idx             the documents to train on; train.mask, where not all of them is learnt
DIR/validation.bin, validation.idx   the documents held back; absent where nothing was
DIR/data.json                        this description, written last: without it the folder is unfinished
DIR/tokenizer.json                   where the tokenizer has a file of its own
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from receptance import atomic, whole_file
from receptance.data.indexed import TokenStore
from receptance.errors import DataError
from receptance.tokenizers import Tokenizer, load_tokenizer
from receptance.tokenizers.load import ALIASES

FILE = "data.json"
TRAIN = "train"
VALIDATION = "validation"
SPLITS = (TRAIN, VALIDATION)

VERSION = 1
_LARGEST_BYTES = 100_000  # checking takes several hundred times as much memory


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """What one split holds; each document counts one end token."""

    documents: NonNegativeInt
    tokens: NonNegativeInt
    bytes_of_text: NonNegativeInt  # as UTF-8
    longest_document: NonNegativeInt  # in tokens
    learnt_tokens: NonNegativeInt | None = None  # without what is masked, such as prompts; None: all are
    learnt_bytes: NonNegativeInt | None = None  # the text of these

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text a token."""
        return self.bytes_of_text / self.tokens if self.tokens else 0.0

    @property
    def bytes_per_learnt_token(self) -> float:
        """Bytes of text a token that is learnt: nats per token / (ln 2 * this) = bits per byte."""
        if self.learnt_tokens is None or self.learnt_bytes is None:
            return self.bytes_per_token
        return self.learnt_bytes / self.learnt_tokens if self.learnt_tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class SourceStatistics:
    """What of one source is in all splits together, each document as often as its weight has it there."""

    name: str
    weight: PositiveFloat | None  # None of several sources in one entry
    documents: NonNegativeInt
    tokens: NonNegativeInt
    bytes_of_text: NonNegativeInt
    longest_document: NonNegativeInt
    duplicates: NonNegativeInt  # documents left out because an equal one came before, here or in another

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text a token."""
        return self.bytes_of_text / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class Description:
    """The contents of `data.json`."""

    tokenizer: str  # its name, as in the header of a checkpoint
    tokenizer_file: str | None  # its file in the folder
    vocabulary_size: PositiveInt  # the rows a model needs
    end_of_text: NonNegativeInt  # the token after each document
    splits: dict[str, SplitStatistics]
    empty: NonNegativeInt  # documents left out because they hold no text
    undecodable: NonNegativeInt  # documents left out because they are not UTF-8
    duplicates: NonNegativeInt  # documents left out because an equal one came before
    made_by: dict[str, Any]  # the arguments, for the reader; no program depends on them
    version: PositiveInt = VERSION  # of this description and of the files beside it
    sources: tuple[SourceStatistics, ...] = ()  # in order; none of a store that another program made

    def write(self, folder: Path) -> None:
        """Write `data.json`, the seal of a finished folder."""
        contents = dataclasses.asdict(self)
        for name, split in self.splits.items():
            contents["splits"][name]["bytes_per_token"] = round(split.bytes_per_token, 6)
        for entry, source in zip(contents["sources"], self.sources, strict=True):
            entry["bytes_per_token"] = round(source.bytes_per_token, 6)
        atomic.write_text(folder / FILE, json.dumps(contents, indent=2, ensure_ascii=False) + "\n")


def read_description(folder: str | Path) -> Description:
    """Return what `data.json` says of a prepared folder.

    Raises DataError where the folder is unfinished, or the file is none that `receptance prepare` writes.
    """
    path = Path(folder) / FILE
    if Path(folder).is_file():
        raise DataError(
            f"{folder} is a file, but a folder is needed that was made of it: receptance prepare {folder} "
            "--output FOLDER."
        )
    if not path.exists():
        raise DataError(
            f"{path}: no such file, so {folder} was not made, or not finished, by `receptance prepare`. Make "
            f"it: receptance prepare TEXT… --output {folder}"
        )
    needed = "the description that `receptance prepare` writes"
    contents = whole_file.read(path, limit=_LARGEST_BYTES, needed=needed, error=DataError)
    _check_version(path, contents)
    try:
        description = TypeAdapter(Description).validate_json(contents, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise DataError(f"{path}: {place}: {fault['msg']}. Prepare the folder again.") from error
    _check_names(path, description)
    return description


def _check_version(path: Path, contents: bytes) -> None:
    """Refuse a description of a later version, whatever else it says."""
    with suppress(ValueError, RecursionError):  # what is no JSON is refused afterwards
        found = json.loads(contents)
        version = found.get("version") if isinstance(found, dict) else None
        if isinstance(version, int) and version > VERSION:
            raise DataError(
                f"{path}: is of version {version}, but only versions up to {VERSION} are known here. Update "
                "receptance, or prepare the folder again."
            )


def _check_names(path: Path, description: Description) -> None:
    """Check that no name leads out of the folder: descriptions come from strangers too."""
    file = description.tokenizer_file
    if file is not None and (Path(file).name != file or file in ("", "..") or "\0" in file):
        raise DataError(f"{path}: tokenizer_file is {file!r}, but a name without folders is needed.")
    if file is None and description.tokenizer.lower() not in ALIASES:
        raise DataError(
            f"{path}: tokenizer is {description.tokenizer!r}, but without a tokenizer_file it must be one of "
            f"{', '.join(ALIASES)}."
        )
    for name in description.splits.keys() - set(SPLITS):
        raise DataError(f"{path}: there is a split {name!r}, but only {' and '.join(SPLITS)} are known.")


def open_split(folder: str | Path, split: str) -> TokenStore:
    """Open one split, "train" or "validation", of a prepared folder.

    Raises DataError where the folder is unfinished or damaged, or has no such split.
    """
    splits = read_description(folder).splits
    if split not in splits:
        raise DataError(f"{folder} has no split {split!r}, but only {', '.join(splits)}.")
    store = TokenStore(Path(folder) / split)
    if (store.mask is None) != (splits[split].learnt_tokens is None):
        raise DataError(
            f"{store.bin_path}: {FILE} and the files beside it disagree on whether every token is learnt. "
            "Prepare the folder again."
        )
    described = splits[split].documents, splits[split].tokens
    if described != (store.documents, store.tokens):
        raise DataError(
            f"{store.bin_path} holds {store.documents:,} documents and {store.tokens:,} tokens, but {FILE} "
            f"beside it says {described[0]:,} and {described[1]:,}. Prepare the folder again."
        )
    return store


def open_tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer that a prepared folder was made with: from its file in the folder, or by its name.

    Raises DataError where the folder is unfinished or damaged, TokenizerError where the tokenizer is.
    """
    description = read_description(folder)
    file = description.tokenizer_file
    return load_tokenizer(description.tokenizer if file is None else Path(folder) / file)
