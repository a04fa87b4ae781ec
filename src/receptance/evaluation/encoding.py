"""How a question becomes tokens: what is read before everything, and where a continuation begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from receptance.errors import ConfigError
from receptance.evaluation.scoring import Request
from receptance.tokenizers import Tokenizer

PrefixName = Literal["newline", "end-of-text", "none"]


@dataclass(frozen=True)
class Encoding:
    """A tokenizer, and what every text begins with.

    newline      a line break, as the figures of the RWKV-4 paper were taken
    end-of-text  the token that parts documents in training, usually token 0
    none         nothing; a text without a context still begins with the end-of-text token, as in lm-eval

    Raises ConfigError for another prefix.
    """

    tokenizer: Tokenizer
    prefix: PrefixName = "newline"

    def __post_init__(self) -> None:
        """Refuse a prefix that is none."""
        if self.prefix not in get_args(PrefixName):
            raise ConfigError(
                f"the prefix is {self.prefix!r}, but it must be one of {', '.join(get_args(PrefixName))}."
            )

    def prompt(self, text: str) -> list[int]:
        """Return the tokens that are read before what follows a text; never empty."""
        tokens = self.tokenizer.encode(text)
        match self.prefix:
            case "newline":
                return [*self.tokenizer.encode("\n"), *tokens]
            case "end-of-text":
                return [self.tokenizer.end_of_text, *tokens]
            case "none":
                return tokens or [self.tokenizer.end_of_text]

    def whole(self, text: str) -> Request:
        """Return a whole text, to be scored from its first token on."""
        return Request(self.prompt(""), self.tokenizer.encode(text))

    def pair(self, context: str, continuation: str) -> Request:
        """Return a continuation after its context, with the border between the tokens where lm-eval has it.

        Blanks that end the context belong to the continuation, whose tokens are those of the whole text that
        come after as many as the context has.
        """
        stripped = context.rstrip()
        whole = self.tokenizer.encode(context + continuation)
        begin = len(self.tokenizer.encode(stripped))
        # Where a token spans the border, what is left of the whole may be nothing.
        rest = whole[begin:] or self.tokenizer.encode(context[len(stripped) :] + continuation)
        return Request(self.prompt(stripped), rest)
