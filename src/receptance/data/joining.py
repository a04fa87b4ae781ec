"""Shards joined to the stores of a prepared folder: without duplicates, and each as often as it weighs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from receptance.data.description import TRAIN, VALIDATION, SourceStatistics, SplitStatistics
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
        self._sources: dict[int, _Tally] = defaultdict(_Tally)
        self._stack = ExitStack()
        self.empty = self.undecodable = 0

    @property
    def duplicates(self) -> int:
        """How many documents were left out because an equal one came before."""
        return sum(tally.duplicates for tally in self._sources.values())

    def __enter__(self) -> Self:
        for split in self._splits.values():
            self._stack.enter_context(split.store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, shard: Shard, sources: Sequence[int], weight: float) -> None:
        """Write a shard's documents; those to train on `weight` times, for a part of a time by hash.

        `sources` are the numbers of those that its chunks are of.
        """
        self.empty += int(shard.left_out[0])
        self.undecodable += int(shard.left_out[1])
        ends = np.cumsum(shard.sizes)
        tallies = [self._sources[sources[chunk]] for chunk in shard.chunk.tolist()]
        kept = [index for index in range(shard.sizes.size) if self._is_new(shard, index, tallies[index])]
        for time in range(math.ceil(weight)):
            for index in kept:
                held_back = bool(shard.is_held_back[index])
                if time if held_back else not _is_chosen(shard.digests[index], weight - time):
                    continue
                span = slice(int(ends[index] - shard.sizes[index]), int(ends[index]))
                mask = shard.mask[span] if shard.mask.size else None
                split = self._splits[VALIDATION if held_back else TRAIN]
                size = int(shard.bytes_of_text[index])
                split.add(shard.tokens[span], mask, size, int(shard.learnt_bytes[index]))
                tallies[index].add(int(shard.sizes[index]), size)

    def statistics(self) -> dict[str, SplitStatistics]:
        """Return what each split holds so far."""
        return {name: split.statistics() for name, split in self._splits.items()}

    def sources(
        self, names: Sequence[str], weights: Sequence[float], listed: int
    ) -> tuple[SourceStatistics, ...]:
        """Return what came of each source so far; those after the first `listed` are one entry."""
        found = [
            self._sources[number].statistics(names[number], weights[number])
            for number in range(min(listed, len(names)))
        ]
        if len(names) > listed:
            others = _Tally.sum(self._sources[number] for number in range(listed, len(names)))
            found.append(others.statistics(f"… and {len(names) - listed:,} more", None))
        return tuple(found)

    def _is_new(self, shard: Shard, index: int, tally: _Tally) -> bool:
        if self._seen is None:
            return True
        # The two parts of a document that is cut have its digest both.
        held_back = bool(shard.is_held_back[index])
        key = shard.digests[index].tobytes() + bytes([held_back])
        if key not in self._seen:
            self._seen.add(key)
            return True
        if not held_back or key[:-1] + bytes([False]) not in self._seen:
            tally.duplicates += 1
        return False


@dataclass
class _Tally:
    """What was written of a source, and what was not."""

    documents: int = 0
    tokens: int = 0
    bytes_of_text: int = 0
    longest_document: int = 0
    duplicates: int = 0

    def add(self, tokens: int, size: int) -> None:
        self.documents += 1
        self.tokens += tokens
        self.bytes_of_text += size
        self.longest_document = max(self.longest_document, tokens)

    @classmethod
    def sum(cls, tallies: Iterable[Self]) -> Self:
        total = cls()
        for tally in tallies:
            total.documents += tally.documents
            total.tokens += tally.tokens
            total.bytes_of_text += tally.bytes_of_text
            total.longest_document = max(total.longest_document, tally.longest_document)
            total.duplicates += tally.duplicates
        return total

    def statistics(self, name: str, weight: float | None) -> SourceStatistics:
        return SourceStatistics(name=name, weight=weight, **vars(self))


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
