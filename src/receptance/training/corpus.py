"""The text of a run: a folder that `receptance prepare` made, opened and checked against the model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from receptance import atomic
from receptance.checkpoints import Checkpoint
from receptance.data import Description, Windows, open_split, read_description
from receptance.data.description import TRAIN, VALIDATION
from receptance.errors import ConfigError
from receptance.training.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Windows over the two splits, and what `data.json` says of them."""

    folder: Path
    description: Description
    training: Mapping[int, Windows]  # by their context, of which each stage of a run has one
    validation: Windows | None  # None where nothing was held back

    def bits_per_byte(self, nats_per_token: float, split: str) -> float:
        """Return a loss in a unit that vocabularies do not change; of the split that it was measured on."""
        return nats_per_token / (math.log(2) * self.description.splits[split].bytes_per_token)

    def identity(self) -> dict[str, object]:
        """Return what tells this text from another, for a run that wants to go on with the same."""
        training = self.description.splits[TRAIN]
        return {
            "tokenizer": self.description.tokenizer,
            "documents": training.documents,
            "tokens": training.tokens,
            "bytes_of_text": training.bytes_of_text,
        }

    def check_vocabulary(self, vocabulary_size: int) -> None:
        """See to it, before a step is spent, that a model has a row for every token.

        Raises ConfigError where it has fewer than the tokenizer, and DataError where the store holds an id
        that the tokenizer does not know.
        """
        needed = self.description
        if vocabulary_size < needed.vocabulary_size:
            raise ConfigError(
                f"the model has a vocabulary of {vocabulary_size:,}, but {self.folder} was prepared with "
                f"{needed.tokenizer!r}, which has {needed.vocabulary_size:,}. Leave model.vocabulary_size "
                "out, or prepare the text again with the model's tokenizer."
            )
        for windows in (*self.training.values(), self.validation):
            if windows is not None:
                windows.store.check_vocabulary(needed.vocabulary_size)

    def check_tokenizer(self, initial: Checkpoint) -> None:
        """Raise ConfigError where a checkpoint was trained with another tokenizer, as far as it tells."""
        needed, file = self.description, self.description.tokenizer_file
        if initial.tokenizer not in (None, needed.tokenizer):
            raise ConfigError(
                f"{initial.path} was trained with the tokenizer {initial.tokenizer!r}, but {self.folder} was "
                f"prepared with {needed.tokenizer!r}. Prepare the text again with the former."
            )
        beside = initial.files[0].parent / file if file else None
        if file and beside and beside.is_file() and beside.read_bytes() != (self.folder / file).read_bytes():
            raise ConfigError(
                f"{beside} is not the tokenizer that {self.folder} was prepared with. Prepare the text again "
                "with it, so that the model meets the tokens that it knows."
            )

    def copy_tokenizer(self, folder: Path) -> None:
        """Put the tokenizer's file, where it has one, into the folder of a checkpoint."""
        name = self.description.tokenizer_file
        if name is not None:
            contents = (self.folder / name).read_bytes()
            with atomic.write(folder / name) as temporary:
                temporary.write_bytes(contents)


def open_corpus(config: DataConfig, seed: int, contexts: Collection[int] = ()) -> Corpus:
    """Open a prepared folder for training, in samples of the given contexts; without any, of the config's.

    Raises DataError where it is unfinished or damaged, or its training split is smaller than one sample.
    """
    description = read_description(config.folder)
    store = open_split(config.folder, TRAIN)
    return Corpus(
        folder=config.folder,
        description=description,
        training={
            context: Windows(store, context=context, seed=seed) for context in contexts or (config.context,)
        },
        validation=_validation(config, description),
    )


def _validation(config: DataConfig, description: Description) -> Windows | None:
    """Open the split that was held back, if there is one to measure a loss on, however short."""
    if VALIDATION not in description.splits or description.splits[VALIDATION].tokens < 2:
        return None
    store = open_split(config.folder, VALIDATION)
    return Windows(store, context=min(config.context, store.tokens - 1))
