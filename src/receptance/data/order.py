"""Where each sample of a run begins, as a pure function of its number: nothing is kept, nothing can be lost.

`Shuffled` computes its order: a Feistel network (a bijection of 2^2b numbers, whatever its round function
is) walked until it lands below the wanted size (Black and Rogaway, "Ciphers with arbitrary finite domains",
2002).
`PrimeStride` is the order of RWKV-LM. In `Sequential` order, samples follow one another in the text.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from receptance.errors import ConfigError, DataError

ROUNDS = 7
# Enough for every number below 3.3 * 10^24 (Sorenson and Webster, 2015).
WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)

OrderName = Literal["shuffled", "prime-stride", "sequential"]


class Order(Protocol):
    """What `Windows` needs to know of an order."""

    def __len__(self) -> int:
        """Return the samples of an epoch."""

    def starts(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the token at which each sample `[n]` begins; samples are counted from 0 over all epochs."""

    def streams(self, samples: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the stream that each sample goes on with; None where samples do not follow one another."""


def order_of(name: OrderName, *, tokens: int, context: int, seed: int, num_streams: int = 1) -> Order:
    """Return the order of this name, with so many streams where it has any.

    Raises ConfigError where there is none, DataError for too few tokens.
    """
    if name == "shuffled":
        return Shuffled(tokens, context, seed)
    if name == "prime-stride":
        return PrimeStride(tokens, context)
    if name == "sequential":
        return Sequential(tokens, context, num_streams)
    raise ConfigError(f"order is {name!r}, but it must be 'shuffled', 'prime-stride' or 'sequential'.")


class Shuffled:
    """All tokens as one ring, cut each epoch from another starting point, its windows in another order."""

    def __init__(self, tokens: int, context: int, seed: int) -> None:
        self._tokens, self._context, self._seed = tokens, context, seed

    def __len__(self) -> int:
        return self._tokens // self._context

    def starts(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where samples begin, below the number of tokens."""
        epochs, within = np.divmod(samples, len(self))
        starts = np.empty_like(samples)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            offset, *keys = _random_words(self._seed, int(epoch))
            order = permute(within[chosen], len(self), keys)
            starts[chosen] = (offset % self._tokens + order * self._context) % self._tokens
        return starts

    def streams(self, samples: NDArray[np.int64]) -> None:
        """Return None, because samples do not follow one another."""


class Sequential:
    """Streams that go through the text side by side: sample n goes on where sample n - num_streams ended.

    They begin at equal distances in the text, which is a ring, and each goes on into what the next has read.

    Raises DataError where a stream would have less than one sample of its own.
    """

    def __init__(self, tokens: int, context: int, num_streams: int) -> None:
        self._tokens, self._context, self._num_streams = tokens, context, num_streams
        if tokens // num_streams < context:
            raise DataError(
                f"{tokens:,} tokens are {tokens // num_streams:,} for each of the {num_streams:,} samples of "
                f"a step, but in the order 'sequential' each needs its own, as many as the context of "
                f"{context:,}. Prepare more text, or choose fewer samples or a shorter context."
            )

    def __len__(self) -> int:
        return self._tokens // self._context

    def starts(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where samples begin, below the number of tokens."""
        turns, streams = np.divmod(samples, self._num_streams)
        stretch = self._tokens // self._num_streams
        starts: NDArray[np.int64] = (streams * stretch + turns * self._context) % self._tokens
        return starts

    def streams(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the stream that each sample goes on with."""
        return samples % self._num_streams


class PrimeStride:
    """The order of RWKV-LM: sample n begins at window floor(p * 0.618...) * (n + 1)^3 mod p.

    p is the "magic prime", the largest prime of the form 3k + 2 up to tokens / context - 1. Cubing maps the
    numbers below such a prime onto themselves, so p samples are p different windows. The seed has no part in
    it, and every epoch is alike.

    Raises DataError where there is no such prime: fewer than three windows.
    """

    def __init__(self, tokens: int, context: int) -> None:
        self._context = context
        self.prime = magic_prime(tokens, context)
        # In this precision, as RWKV-LM has it.
        self._factor = int(self.prime * ((math.sqrt(5) - 1) / 2))

    def __len__(self) -> int:
        return self.prime

    def starts(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where samples begin, each a multiple of the context."""
        windows = [self._factor * pow(n + 1, 3, self.prime) % self.prime for n in samples.tolist()]
        return np.array(windows, np.int64) * self._context

    def streams(self, samples: NDArray[np.int64]) -> None:
        """Return None, because samples do not follow one another."""


def magic_prime(tokens: int, context: int) -> int:
    """Return the largest prime 3k + 2 up to tokens / context - 1. Raises DataError where there is none."""
    for number in range(tokens // context - 1, 1, -1):
        if number % 3 == 2 and is_prime(number):
            return number
    raise DataError(
        f"{tokens:,} tokens with a context of {context:,} are {tokens // context:,} windows, but the order "
        "'prime-stride' needs at least 3. Prepare more text, or choose a shorter context or another order."
    )


def is_prime(number: int) -> bool:
    """Whether a number below 2^64 is a prime: the test of Miller and Rabin with witnesses that suffice."""
    if number < 2:
        return False
    for witness in WITNESSES:
        if number % witness == 0:
            return number == witness
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    odd = (number - 1) >> twos
    for witness in WITNESSES:
        power = pow(witness, odd, number)
        if power in (1, number - 1):
            continue
        if not any((power := power * power % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True


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
