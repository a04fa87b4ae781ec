"""One document: a text, or a conversation or instruction of which only the answers are learnt."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from receptance.tokenizers.conversation import Span


@dataclass(frozen=True)
class Document:
    """The spans of one document, in order."""

    spans: tuple[Span, ...]

    @classmethod
    def plain(cls, text: str) -> Self:
        """Return a text that is learnt whole."""
        return cls((Span(text, is_learnt=True),))

    @property
    def is_plain(self) -> bool:
        """Whether all of it is learnt."""
        return all(span.is_learnt for span in self.spans)

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(span.text for span in self.spans)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that stand for the text: no two in this world share them by chance."""
        return digest(self.text)


def digest(text: str) -> bytes:
    """Return 16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
