"""The text of a run: a prepared folder, or a bare store, opened and checked against the model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from receptance import atomic
from receptance.checkpoints.stored_model import StoredModel
from receptance.data import Description, TokenStore, Windows, open_split, read_description
from receptance.data.bare_store import describe, is_bare_store
from receptance.data.description import TRAIN, VALIDATION
from receptance.errors import ConfigError, DataError
from receptance.tokenizers import Tokenizer, load_tokenizer
from receptance.training.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Windows over the two splits, and what `data.json` says of them."""

    folder: Path
    tokenizer_file: Path | None  # None where its name suffices
    description: Description
    training: Mapping[int, Windows]  # by their context, of which each stage of a run has one
    validation: Windows | None  # None where nothing was held back

    def bits_per_byte(self, nats_per_token: float, split: str) -> float:
        """Return a loss in a unit that vocabularies do not change; of the split that it was measured on."""
        return nats_per_token / (math.log(2) * self.description.splits[split].bytes_per_learnt_token)

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

    def check_tokenizer(self, initial: StoredModel) -> None:
        """Raise ConfigError where a checkpoint was trained with another tokenizer, as far as it tells."""
        needed, file = self.description, self.tokenizer_file
        if initial.tokenizer not in (None, needed.tokenizer):
            raise ConfigError(
                f"{initial.path} was trained with the tokenizer {initial.tokenizer!r}, but {self.folder} was "
                f"prepared with {needed.tokenizer!r}. Prepare the text again with the former."
            )
        beside = initial.files[0].parent / file.name if file else None
        if file and beside and beside.is_file() and beside.read_bytes() != file.read_bytes():
            raise ConfigError(
                f"{beside} is not the tokenizer that {self.folder} was prepared with. Prepare the text again "
                "with it, so that the model meets the tokens that it knows."
            )

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the text. Raises TokenizerError where it is nowhere to be found."""
        return load_tokenizer(self.tokenizer_file or self.description.tokenizer)

    def copy_tokenizer(self, folder: Path) -> None:
        """Put the tokenizer's file, where it has one, into the folder of a checkpoint."""
        if self.tokenizer_file is not None:
            atomic.write_bytes(folder / self.tokenizer_file.name, self.tokenizer_file.read_bytes())


def open_corpus(
    config: DataConfig, seed: int, contexts: Collection[int] = (), *, chunk: int = 0, num_streams: int = 1
) -> Corpus:
    """Open a prepared folder, or a store that another program made, in samples of the given contexts.

    Without any, they have the config's. `chunk` is the recipe's `training.chunk`, and `num_streams` how many
    samples a step has, in which the order "sequential" goes on.

    Raises DataError where it is unfinished or damaged, where its training split is smaller than one sample,
    or nothing of it is to be learnt; ConfigError where keys of `config` contradict it.
    """
    if is_bare_store(config.folder):
        return _open_bare_store(config, seed, contexts, chunk, num_streams)
    if not config.folder.exists():
        seen_from = "" if config.folder.is_absolute() else f" in {Path.cwd()}, where the command was given"
        raise DataError(
            f"data.folder is {config.folder}, but there is no such folder or store{seen_from}. Make it: "
            f"receptance prepare TEXT… --output {config.folder}"
        )
    description = read_description(config.folder)
    if config.tokenizer or config.validation:
        key = "tokenizer" if config.tokenizer else "validation"
        raise ConfigError(
            f"data.{key} is {str(getattr(config, key))!r}, but {config.folder} was made by "
            "`receptance prepare` and brings its own. Leave the key out."
        )
    held_back = VALIDATION in description.splits
    file = description.tokenizer_file
    return Corpus(
        folder=config.folder,
        tokenizer_file=config.folder / file if file else None,
        description=description,
        training=_training(config, open_split(config.folder, TRAIN), seed, contexts, chunk, num_streams),
        validation=_validation(config, open_split(config.folder, VALIDATION) if held_back else None, chunk),
    )


def _open_bare_store(
    config: DataConfig, seed: int, contexts: Collection[int], chunk: int, num_streams: int
) -> Corpus:
    if not config.tokenizer:
        raise ConfigError(
            f"{config.folder} is a store that does not say what tokenizer made it. Set data.tokenizer to its "
            "name (world, 20b) or its vocabulary file."
        )
    tokenizer = load_tokenizer(config.tokenizer)
    file = Path(config.tokenizer).expanduser()
    train = TokenStore(config.folder)
    validation = TokenStore(config.validation) if config.validation else None
    return Corpus(
        folder=config.folder,
        tokenizer_file=file if file.is_file() else None,
        description=describe(tokenizer, train, validation),
        training=_training(config, train, seed, contexts, chunk, num_streams),
        validation=_validation(config, validation, chunk),
    )


def _training(
    config: DataConfig,
    store: TokenStore,
    seed: int,
    contexts: Collection[int],
    chunk: int,
    num_streams: int,
) -> dict[int, Windows]:
    if store.mask is not None and not store.mask.any():
        raise DataError(
            f"{store.bin_path}: its mask says that no token is to be learnt. Prepare texts or answers too."
        )
    return {
        context: Windows(
            store,
            context=context,
            seed=seed,
            order=config.order,
            reset_at_borders=config.reset_at_borders,
            chunk=chunk,
            num_streams=num_streams,
        )
        for context in contexts or (config.context,)
    }


def _validation(config: DataConfig, store: TokenStore | None, chunk: int) -> Windows | None:
    """Open the split that was held back, if there is one to measure a loss on, however short."""
    if store is None or store.tokens < 2 or (store.mask is not None and not store.mask[1:].any()):
        return None
    context = min(config.context, store.tokens - 1)
    return Windows(store, context=context, reset_at_borders=config.reset_at_borders, chunk=chunk)
