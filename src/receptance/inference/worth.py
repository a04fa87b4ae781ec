"""How many tokens it pays to guess and to read ahead, from what is seen while a text is written.

Where each guess is right with probability p if those before it are, a token and n guesses in one span give
1 + p + ... + p^n tokens, for what the span and the guessing cost.
"""

from __future__ import annotations

from dataclasses import dataclass

SIZES = (2, 4, 8, 16)  # tokens in a span; matrices take powers of two at a time
LEAST_GAIN = 1.05  # a plain token is taken for this much less
TRIES = 3  # so often a span is read before its time is believed
DOUBLING = 1.25  # until then a span is taken to cost so much more than one of half the size
LATEST = 32  # guesses that the share of the right ones is of, about


@dataclass
class Share:
    """Of the latest guesses, how many were right; at first as if one of two was."""

    value: float = 0.5
    guesses: int = 1

    def add(self, is_right: bool) -> None:
        """Take in one more."""
        self.guesses = min(self.guesses + 1, LATEST)
        self.value += (is_right - self.value) / self.guesses


@dataclass
class Duration:
    """How long something takes when nothing disturbs it: less counts at once, more only if it stays so."""

    seconds: float = 0.0
    tries: int = 0

    def add(self, seconds: float) -> None:
        """Take in one more."""
        longer = seconds - self.seconds
        self.seconds += longer / 8 if self.tries and longer > 0 else longer
        self.tries += 1


class Worth:
    """Knows what was guessed and read so far, and says how much to guess next."""

    def __init__(self) -> None:
        self._right: dict[int, Share] = {}
        self._spans: dict[int, Duration] = {}
        self._guess = Duration()

    def guessed(self, kind: int, is_right: bool) -> None:
        """Take in whether a guess of this kind was right, those before it being so."""
        self._right.setdefault(kind, Share()).add(is_right)

    def took(self, size: int, seconds: float) -> None:
        """Take in how long the reading of so many tokens took."""
        self._spans.setdefault(size, Duration()).add(seconds)

    def guessing_took(self, seconds: float) -> None:
        """Take in how long it took to guess a token."""
        self._guess.add(seconds)

    def count(self, kind: int, most: int) -> int:
        """Return how many tokens to guess, of this kind and at most so many; 0 where no guess pays."""
        single = self._spans.get(1)
        if single is None or single.tries < TRIES:
            return 0
        right = self._right.get(kind, Share()).value
        best, least = 0, single.seconds / LEAST_GAIN
        for size in SIZES:
            guesses = size - 1
            if guesses > most:
                break
            tokens = sum(right**i for i in range(size))
            seconds_a_token = (self._seconds(size) + guesses * self._guess.seconds) / tokens
            if seconds_a_token < least:
                best, least = guesses, seconds_a_token
        return best

    def _seconds(self, size: int) -> float:
        span = self._spans.get(size)
        if span is None or span.tries < TRIES:
            return DOUBLING * self._seconds(size // 2)
        return span.seconds
