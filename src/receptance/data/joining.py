"""Shards joined to the stores of a prepared folder: without duplicates, and each as often as it weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from receptance.data.description import TRAIN, VALIDATION, SplitStatistics
from receptance.data.shard import Shard
from receptance.data.store_writer import TokenStoreWriter
from receptance.tokenizers import Tokenizer

HASHES = 2**64


class Joining:
    """Stores of both splits that shards are added to, as a context manager; see `TokenStoreWriter`."""

    def __init__(self, folder: Path, splits: Sequence[str], tokenizer: Tokenizer, deduplicate: bool) -> None:
        self._splits = {
            split: _Split(TokenStoreWriter(folder / split, tokenizer.vocabulary_size)) for split in splits
        }
        self._seen: set[bytes] | None = set() if deduplicate else None
        self._stack = ExitStack()
        self.empty = self.undecodable = self.duplicates = 0

    def __enter__(self) -> Self:
        for split in self._splits.values():
            self._stack.enter_context(split.store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, shard: Shard, weight: float) -> None:
        """Write a shard's documents; those to train on `weight` times, for a part of a time by hash."""
        self.empty += int(shard.left_out[0])
        self.undecodable += int(shard.left_out[1])
        ends = np.cumsum(shard.sizes)
        kept = [index for index in range(shard.sizes.size) if self._is_new(shard, index)]
        for time in range(math.ceil(weight)):
            for index in kept:
                held_back = bool(shard.is_held_back[index])
                if time if held_back else not _is_chosen(shard.digests[index], weight - time):
                    continue
                span = slice(int(ends[index] - shard.sizes[index]), int(ends[index]))
                mask = shard.mask[span] if shard.mask.size else None
                split = self._splits[VALIDATION if held_back else TRAIN]
                split.add(
                    shard.tokens[span], mask, int(shard.bytes_of_text[index]), int(shard.learnt_bytes[index])
                )

    def statistics(self) -> dict[str, SplitStatistics]:
        """Return what each split holds so far."""
        return {name: split.statistics() for name, split in self._splits.items()}

    def _is_new(self, shard: Shard, index: int) -> bool:
        if self._seen is None:
            return True
        # The two parts of a document that is cut have its digest both.
        held_back = bool(shard.is_held_back[index])
        key = shard.digests[index].tobytes() + bytes([held_back])
        if key not in self._seen:
            self._seen.add(key)
            return True
        if not held_back or key[:-1] + bytes([False]) not in self._seen:
            self.duplicates += 1
        return False


class _Split:
    """Writes the documents of one split, and counts."""

    def __init__(self, store: TokenStoreWriter) -> None:
        self.store = store
        self._bytes = self._longest = self._learnt_tokens = self._learnt_bytes = 0

    def add(
        self, tokens: NDArray[np.integer], mask: NDArray[np.uint8] | None, size: int, learnt_size: int
    ) -> None:
        self.store.append(tokens, mask)
        self._bytes += size
        self._longest = max(self._longest, tokens.size)
        self._learnt_tokens += tokens.size if mask is None else int(np.count_nonzero(mask))
        self._learnt_bytes += learnt_size

    def statistics(self) -> SplitStatistics:
        is_masked = self._learnt_tokens != self.store.tokens
        return SplitStatistics(
            documents=self.store.documents,
            tokens=self.store.tokens,
            bytes_of_text=self._bytes,
            longest_document=self._longest,
            learnt_tokens=self._learnt_tokens if is_masked else None,
            learnt_bytes=self._learnt_bytes if is_masked else None,
        )


def _is_chosen(digest: NDArray[np.uint8], share: float) -> bool:
    """Whether a share of all documents has this one in it; other bits than these choose what is held back."""
    return share >= 1 or int.from_bytes(digest[8:16].tobytes(), "big") < share * HASHES
