"""A text that never changes: small stories out of a grammar, whose ends follow from their beginnings."""

from __future__ import annotations

import random
from collections.abc import Sequence


class Choices:
    """Draws by `random()` alone, the one method whose numbers Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def number(self, below: int) -> int:
        return int(self._random() * below)

    def one(self, of: Sequence[str]) -> str:
        """Draw one; the first ones come more often, as in any language."""
        return of[int(self._random() ** 2 * len(of))]

    def two(self, of: Sequence[str]) -> list[str]:
        """Draw two that differ."""
        first = self.one(of)
        return [first, self.one([word for word in of if word != first])]

    def words(self, count: int) -> list[str]:
        """Make up words of two or three syllables."""
        return ["".join(self._syllable() for _ in range(2 + self.number(2))) for _ in range(count)]

    def _syllable(self) -> str:
        return "bdfgklmnprst"[self.number(12)] + "aeiou"[self.number(5)]


def stories(count: int, seed: int = 0) -> str:
    """Return so many stories, a line each: who took what where, and what one may ask about it; or a sum."""
    choices = Choices(seed)
    names = [word.capitalize() for word in choices.words(40)]
    qualities, things, places = choices.words(20), choices.words(80), choices.words(40)

    def story() -> str:
        if choices.number(4) == 0:
            one, other = choices.number(50), choices.number(50)
            return f"{choices.one(names)} counts {one} and {other}, which makes {one + other}."
        who, where = choices.two(names), choices.two(places)
        what = [f"{choices.one(qualities)} {thing}" for thing in choices.two(things)]
        asked = choices.number(2)
        told = [f"{who[side]} takes the {what[side]} to the {where[side]}." for side in (0, 1)]
        told += [f"Where is the {what[asked]}? In the {where[asked]}. Who took it? {who[asked]}."]
        return " ".join(told)

    return "".join(f"{story()}\n" for _ in range(count))
