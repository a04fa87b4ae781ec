"""A `.bin/.idx` store that another program made, such as RWKV-LM: described, so that it can be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from receptance.data.description import TRAIN, VALIDATION, Description, SplitStatistics
from receptance.data.indexed import TOKENS_AT_ONCE, TokenStore, store_files
from receptance.tokenizers import Tokenizer

MOST_TOKENS_COUNTED = 2**28


def is_bare_store(path: str | Path) -> bool:
    """Whether a path is the prefix of a store (or one of its files), not a prepared folder."""
    return not Path(path).is_dir() and any(file.exists() for file in store_files(path))


def describe(tokenizer: Tokenizer, train: TokenStore, validation: TokenStore | None) -> Description:
    """Return of stores what `data.json` says of a prepared folder.

    The bytes of text are those of all tokens; beyond 2^28 tokens, those of so many, evenly chosen, stand for
    the rest.
    """
    stores = {TRAIN: train, **({VALIDATION: validation} if validation is not None else {})}
    return Description(
        tokenizer=tokenizer.name,
        tokenizer_file=None,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text=tokenizer.end_of_text,
        splits={name: _statistics(store, tokenizer) for name, store in stores.items()},
        empty=0,
        undecodable=0,
        duplicates=0,
        made_by={"sources": [str(store.bin_path) for store in stores.values()]},
    )


def _statistics(store: TokenStore, tokenizer: Tokenizer) -> SplitStatistics:
    lengths = np.array([len(tokenizer.decode_bytes((i,))) for i in range(tokenizer.vocabulary_size)])
    text = learnt_text = learnt = counted = 0
    stride = max(1, -(-store.tokens // MOST_TOKENS_COUNTED))
    for start in range(0, store.tokens, TOKENS_AT_ONCE):
        span = slice(start, start + TOKENS_AT_ONCE // stride)
        # Ids outside the vocabulary are refused elsewhere, by name.
        sizes = lengths.take(store.flat[span], mode="clip")
        counted += sizes.size
        text += int(sizes.sum())
        if store.mask is not None:
            is_learnt = store.mask[span] != 0
            learnt += int(is_learnt.sum())
            learnt_text += int(sizes[is_learnt].sum())
    return SplitStatistics(
        documents=store.documents,
        tokens=store.tokens,
        bytes_of_text=round(text * store.tokens / max(1, counted)),
        longest_document=store.longest_document(),
        learnt_tokens=None if store.mask is None else learnt,
        learnt_bytes=None if store.mask is None else learnt_text,
    )
