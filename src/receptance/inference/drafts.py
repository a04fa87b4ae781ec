"""Guesses at how a text goes on: from what it said before, or by a smaller model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from receptance.inference.history import History
from receptance.inference.penalties import Counts
from receptance.inference.sampling import Sampling, sample, uniform


@runtime_checkable
class Drafter(Protocol):
    """What guesses the next tokens of a text. A wrong guess costs time, but changes nothing that is written.

    rest  while its guesses do not pay, it is asked for one after so many tokens, to see how good it is
    """

    rest: int

    def begin(self, text: History, sampling: Sampling) -> None:
        """Take a text to follow from now on, whose tokens are drawn in this way."""

    def look(self) -> int | None:
        """Say of what kind a draft would be now, None for none; those of a kind are right equally often."""

    def draft(self, count: int) -> list[int]:
        """Guess at most so many tokens that follow the text as it was at the last look."""


class PromptLookup:
    """Drafts what followed where the text said the same before: the longest match, and the latest of these.

    The kind of a draft is how many tokens agree. The text is indexed as it grows: finding takes the time of a
    few comparisons, however long the text is.
    """

    rest = 1  # a look is so cheap that every one is taken

    FEWEST, MOST = 2, 8  # tokens that agree; more than the most are not counted
    PLACES = 32  # that are compared, the latest first

    def begin(self, text: History, sampling: Sampling) -> None:
        """Take a text to follow; how its tokens are drawn does not matter."""
        self._text = text
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, ...], int] = {}  # where the last tokens, FEWEST of them, stood last
        self._before: list[int] = []  # for each place: where its tokens stood before, -1 where nowhere
        self._source = 0

    def look(self) -> int | None:
        """Return how many of the last tokens agree with those at the best place before; None below FEWEST."""
        for token in self._text.since(len(self._tokens)):
            self._tokens.append(token)
            place, last = len(self._before), tuple(self._tokens[-self.FEWEST :])
            self._before.append(self._latest.get(last, -1))
            self._latest[last] = place
        most, place = 0, self._before[-1] if self._before else -1
        for _ in range(self.PLACES):
            if place < 0 or most == self.MOST:
                break
            agreeing = self._agreeing(place)
            if agreeing > most:
                most, self._source = agreeing, place + 1
            place = self._before[place]
        return most if most >= self.FEWEST else None

    def draft(self, count: int) -> list[int]:
        """Return what followed there; where that reaches the end of the text, it goes on repeating."""
        period = len(self._tokens) - self._source
        return [self._tokens[self._source + i % period] for i in range(count)]

    def _agreeing(self, place: int) -> int:
        tokens, end, most = self._tokens, len(self._tokens) - 1, min(self.MOST, place + 1)
        return next((i for i in range(most) if tokens[place - i] != tokens[end - i]), most)


class DraftModel:
    """Drafts what a smaller model writes, drawn by the same chance at each position as the text itself.

    So where both models think alike, the draft is right however the tokens are drawn, greedily or not.

    new_text  makes an empty text of the smaller model
    vocabulary_size  of the tokenizer that both models share
    """

    rest = 64

    def __init__(self, new_text: Callable[[], History], vocabulary_size: int) -> None:
        self._new_text = new_text
        self._vocabulary_size = vocabulary_size

    def begin(self, text: History, sampling: Sampling) -> None:
        """Take a text to follow; raises ConfigError when the smaller model does not know a token of it."""
        self._text, self._sampling = text, sampling
        self._own = self._new_text()
        self._own.extend(text.since(0))
        self._followed = len(text)  # what follows in `_own` is drafted
        self._counts = self._counted(Counts(), text.written)

    def look(self) -> int:
        """All drafts are of one kind."""
        return 0

    def draft(self, count: int) -> list[int]:
        """Return what the smaller model writes."""
        self._follow()
        counts, tokens = self._counts, []
        for position in range(self._followed, self._followed + count):
            known = self._own.next_logits()[: self._vocabulary_size]
            self._own.keep()  # to go back to if the next token is wrong
            token = int(sample(known, self._sampling, uniform(self._sampling.seed, position), counts))
            self._own.append(token)
            counts = self._counted(counts, (token,))
            tokens.append(token)
        return tokens

    def _follow(self) -> None:
        """Bring the own text to where the followed one is."""
        written, drafted = self._text.since(self._followed), self._own.since(self._followed)
        pairs = zip(written, drafted, strict=False)
        right = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._own.rewind(self._followed + right)
        self._own.extend(written[right:])
        self._counts = self._counted(self._counts, written)
        self._followed = len(self._own)
        for position in self._own.kept[1:-1]:
            self._own.forget(position)

    def _counted(self, counts: Counts, tokens: list[int] | tuple[int, ...]) -> Counts:
        if self._sampling.penalises:
            for token in tokens:
                counts = counts.after(token, self._sampling.penalty_decay, self._sampling.uncounted or ())
        return counts
