"""Which documents are held back for validation, and where long texts are cut.

A document is held back by what it says (a hash of its text), so the choice depends neither on the order of
the sources nor on chance, and equal documents are never on both sides.

    many documents     each whose hash is below the fraction is held back
    a few hundred      exactly the fraction, at least one: those with the smallest hashes
    fewer than 20      each gives its last part, cut at the start of a line; of conversations, as above
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from receptance.data.description import TRAIN, VALIDATION
from receptance.data.document import Document
from receptance.errors import ConfigError
from receptance.tokenizers.conversation import Span

FEW = 20  # documents; below, whole documents would be too uneven a choice
EXPECTED = 16  # documents held back; with fewer to be expected, the number is not left to chance
KEYS = 2**64


@dataclass(frozen=True)
class Split:
    """A rule that parts documents into those to train on and those held back."""

    fraction: float
    threshold: int  # documents with a key below are held back
    cuts: bool  # each document gives its last part instead

    @classmethod
    def plan(cls, documents: Iterable[Document], fraction: float) -> Self:
        """Choose the rule; takes no more documents than it needs to know that they are many.

        Raises ConfigError for a fraction outside 0 (nothing is held back) to below 1.
        """
        return cls._plan(((document.digest, document.is_plain) for document in documents), fraction)

    @classmethod
    def plan_whole(cls, digests: Iterable[bytes], fraction: float) -> Self:
        """Choose the rule for documents of which no more is known than these, so that none is cut."""
        return cls._plan(((digest, False) for digest in digests), fraction)

    @classmethod
    def _plan(cls, documents: Iterable[tuple[bytes, bool]], fraction: float) -> Self:
        """Choose the rule, of each document's digest and whether it may be cut."""
        if not 0 <= fraction < 1:
            raise ConfigError(f"validation_fraction is {fraction}, but it must be at least 0 and below 1.")
        if fraction == 0:
            return cls(fraction, 0, cuts=False)
        many = max(FEW, math.ceil(EXPECTED / fraction))
        keys: set[int] = set()
        all_may_be_cut = True
        for digest, may_be_cut in documents:
            keys.add(_key(digest))
            all_may_be_cut = all_may_be_cut and may_be_cut
            if len(keys) == many:
                return cls(fraction, int(fraction * KEYS), cuts=False)
        if not keys or (len(keys) < FEW and all_may_be_cut):
            return cls(fraction, 0, cuts=True)
        held_back = min(max(1, round(fraction * len(keys))), len(keys) - 1)
        return cls(fraction, sorted(keys)[held_back], cuts=False)

    def holds_back(self, digest: bytes) -> bool:
        """Whether a document that is not cut is held back."""
        return _key(digest) < self.threshold

    def parts(self, document: Document) -> Iterator[tuple[str, tuple[Span, ...]]]:
        """Yield (split, text) of a document: one pair, or two where it is cut."""
        if self.cuts and len(text := document.text) > 1:
            tail = min(max(1, round(self.fraction * len(text))), len(text) - 1)
            cut = line_start(text, len(text) - tail, earliest=max(0, len(text) - 2 * tail))
            yield TRAIN, Document.plain(text[:cut]).spans
            yield VALIDATION, Document.plain(text[cut:]).spans
        else:
            yield VALIDATION if self.holds_back(document.digest) else TRAIN, document.spans


def pieces(text: str, longest: int) -> Iterator[str]:
    """Cut a text into pieces of at most `longest` characters, at starts of lines in their second half."""
    begin = 0
    while len(text) - begin > longest:
        cut = line_start(text, begin + longest, earliest=begin + longest // 2)
        yield text[begin:cut]
        begin = cut
    yield text[begin:]


def line_start(text: str, position: int, earliest: int) -> int:
    """Return the last start of a line after `earliest` and up to `position`; `position` where there is none.

    Only lines that begin with a visible character count: tokenizers cut there anyway, but they join line
    breaks with the blank lines or the indentation after them.
    """
    end = position
    while (start := text.rfind("\n", earliest, end) + 1) > earliest:
        if not text[start].isspace():
            return start
        end = start - 1
    return position


def _key(document: bytes) -> int:
    return int.from_bytes(document[:8], "big")
