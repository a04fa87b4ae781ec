"""Training samples as a pure function of (seed, position), so that resuming needs nothing but the step.

All tokens of a store are read as one ring. Each epoch cuts it into windows from another starting point,
and takes the windows in another order. Order and starting point are computed, not stored: a Feistel network
(a bijection of 2^2b numbers, whatever its round function is) walked until it lands below the wanted size
(Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from receptance.data.indexed import TokenStore
from receptance.errors import ConfigError, DataError

ROUNDS = 7

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


class Windows:
    """Windows of `context` tokens, each with the tokens that follow one step later as its targets.

    `len(windows)` is the number of windows an epoch: every token is a target exactly once in it, but for a
    rest shorter than one window, which lies elsewhere each epoch. Windows cross the borders of documents,
    as in RWKV-LM.

    Raises DataError where the store is smaller than one window, ConfigError for a context below 1.
    """

    def __init__(self, store: TokenStore, *, context: int, seed: int = 0) -> None:
        if operator.index(context) < 1:
            raise ConfigError(f"context is {context}, but it must be at least 1 token.")
        if store.tokens <= context:
            raise DataError(
                f"{store.bin_path} holds {store.tokens:,} tokens, but a context of {context:,} needs at "
                f"least {context + 1:,}. Prepare more text, or choose a context of at most "
                f"{store.tokens - 1:,}."
            )
        self.store = store
        self.context = context
        self.seed = operator.index(seed)

    def __len__(self) -> int:
        return self.store.tokens // self.context

    def batch(self, index: int, batch_size: int) -> Batch:
        """Return (tokens, targets), both `[batch, time]`, of the samples from `index * batch_size` on.

        The same arguments give the same batch in any process, at any time. Samples go on over epochs.
        """
        return self.samples(index * batch_size, batch_size)

    def samples(self, first: int, count: int) -> Batch:
        """Return (tokens, targets) of so many samples from one on: what `batch` returns, of any beginning."""
        if first < 0 or count < 1:
            raise ConfigError(f"{count} samples from {first} on: the first is 0, the fewest are 1.")
        starts = self.starts(np.arange(first, first + count))
        ring = (starts[:, None] + np.arange(self.context + 1)) % self.store.tokens
        return _split(self.store.flat[ring])

    def starts(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where samples begin in the store; samples `[n]` are counted from 0 over all epochs."""
        epochs, within = np.divmod(samples, len(self))
        starts = np.empty_like(samples)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            offset, *keys = _random_words(self.seed, int(epoch))
            order = permute(within[chosen], len(self), keys)
            starts[chosen] = (offset % self.store.tokens + order * self.context) % self.store.tokens
        return starts

    def sequential(self, batch_size: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Yield (tokens, targets) in the order of the store: each of its first `max_tokens` targets once.

        Full windows come as `[batch, time]`; the last batch may have fewer rows, and a rest shorter than one
        window follows as `[1, rest]`. So weigh each batch by the size of its targets.
        """
        if batch_size < 1 or (max_tokens is not None and max_tokens < 1):
            raise ConfigError(
                f"batch_size is {batch_size}, max_tokens {max_tokens}: both must be at least 1."
            )
        count = min(self.store.tokens - 1, max_tokens or self.store.tokens)
        full = count // self.context
        for row in range(0, full, batch_size):
            starts = np.arange(row, min(row + batch_size, full)) * self.context
            yield _split(self.store.flat[starts[:, None] + np.arange(self.context + 1)])
        if count % self.context:
            yield _split(self.store.flat[None, full * self.context : count + 1])


def permute(index: NDArray[np.int64], size: int, keys: list[int]) -> NDArray[np.int64]:
    """Send each index below `size` to its place in an order of 0 to size - 1 that the keys decide."""
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    place = index.astype(np.uint64)
    outside = np.ones(place.shape, bool)
    while outside.any():
        left, right = place[outside] >> half, place[outside] & mask
        for key in keys:
            left, right = right, left ^ (_scramble(right ^ np.uint64(key)) & mask)
        place[outside] = (left << half) | right
        outside = place >= size
    return place.astype(np.int64)


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _random_words(seed: int, epoch: int) -> list[int]:
    """Return 1 + ROUNDS words of 64 bits that depend on nothing else, not even on the version of numpy."""
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8 * (1 + ROUNDS)).digest()
    return [int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8)]


def _split(windows: NDArray[np.integer]) -> Batch:
    """Part windows `[batch, time + 1]` into tokens and targets `[batch, time]`."""
    return windows[:, :-1].astype(np.int64, order="C"), windows[:, 1:].astype(np.int64, order="C")
