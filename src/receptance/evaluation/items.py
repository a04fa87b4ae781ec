"""What a model is asked, item by item: a choice, a completion, an answer in words, a document to predict.

An item says what is to be scored or written, what of that is kept, and what the kept comes to: a pair
(x, w) for each metric, of which `estimates` makes figures. What is kept is plain JSON.
"""

from __future__ import annotations

import math
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from receptance.errors import DataError
from receptance.evaluation.encoding import Encoding
from receptance.evaluation.perplexity import Window
from receptance.evaluation.scoring import Request, Scored

Kept = Any  # what JSON can hold; each kind of item reads what it has written
Measures = dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Item(ABC):
    """One item of a task.

    group  what it belongs to in the task, such as the subject of a question
    """

    group: str = ""

    @abstractmethod
    def measures(self, kept: Kept) -> Measures:
        """Return what the answer comes to."""


class Asked(NamedTuple):
    """What is asked, and the file or folder that it comes from."""

    source: str
    items: Sequence[Item]


@dataclass(frozen=True, kw_only=True)
class ScoredItem(Item):
    """An item whose answer is how likely the model finds some tokens."""

    @abstractmethod
    def requests(self, encoding: Encoding) -> list[Request]:
        """Return what is to be scored."""

    @abstractmethod
    def kept(self, scores: Sequence[Scored], encoding: Encoding) -> Kept:
        """Return what of the scores is kept."""


@dataclass(frozen=True, kw_only=True)
class Choice(ScoredItem):
    """A question and its choices: the likeliest should be the right one.

    contexts   what comes before; one for all choices, or one for each
    endings    the choices, without the blank before them; one for each context, or one for all
    right      which is the right one
    by_length  whether the likelihoods a character of the choices are compared too (acc_norm)
    """

    contexts: tuple[str, ...]
    endings: tuple[str, ...]
    right: int
    by_length: bool = False

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each choice with what comes before it."""
        count = max(len(self.contexts), len(self.endings))
        contexts, endings = (
            each * count if len(each) == 1 else each for each in (self.contexts, self.endings)
        )
        return list(zip(contexts, endings, strict=True))

    @property
    def example(self) -> str:
        """The question with its answer, as an example before others."""
        context, ending = self.pairs[self.right]
        return f"{context} {ending}\n\n"

    def after(self, head: str) -> Self:
        """Return the question after a text, such as examples."""
        return replace(self, contexts=tuple(head + context for context in self.contexts))

    def requests(self, encoding: Encoding) -> list[Request]:
        """Return the choices."""
        return [encoding.pair(context, f" {ending}") for context, ending in self.pairs]

    def kept(self, scores: Sequence[Scored], encoding: Encoding) -> Kept:
        """Return the log likelihood of each choice."""
        return [each.log_likelihood for each in scores]

    def measures(self, kept: Kept) -> Measures:
        """Return the accuracy; of equal choices the first counts as chosen, as in lm-eval."""
        found = {"acc": _place_of_largest(kept)}
        if self.by_length:
            found["acc_norm"] = _place_of_largest(
                [each / max(1, len(ending)) for each, (_, ending) in zip(kept, self.pairs, strict=True)]
            )
        return {metric: (float(place == self.right), 1.0) for metric, place in found.items()}


@dataclass(frozen=True, kw_only=True)
class Completion(ScoredItem):
    """A text and how it should go on."""

    context: str
    ending: str  # with the blank before it

    @property
    def example(self) -> str:
        """The whole text, as an example before others; with a second blank, as lm-eval has it."""
        return f"{self.context} {self.ending}\n\n"

    def after(self, head: str) -> Self:
        """Return it after a text, such as examples."""
        return replace(self, context=head + self.context)

    def requests(self, encoding: Encoding) -> list[Request]:
        """Return the one ending."""
        return [encoding.pair(self.context, self.ending)]

    def kept(self, scores: Sequence[Scored], encoding: Encoding) -> Kept:
        """Return the log likelihood, and whether the model would write the ending."""
        return [scores[0].log_likelihood, scores[0].is_greedy]

    def measures(self, kept: Kept) -> Measures:
        """Return the accuracy of greedy writing, and the perplexity of the ending as one word."""
        log_likelihood, is_greedy = kept
        return {"acc": (float(is_greedy), 1.0), "perplexity": (-log_likelihood, 1.0)}


@dataclass(frozen=True, kw_only=True)
class Answer(Item):
    """A question to which the model writes an answer."""

    prompt: str
    answers: tuple[str, ...]  # any of them is right
    stop: tuple[str, ...]
    max_tokens: int = 256

    @property
    def example(self) -> str:
        """The question with an answer, as an example before others."""
        return f"{self.prompt} {self.answers[0]}\n\n"

    def after(self, head: str) -> Self:
        """Return it after a text, such as examples."""
        return replace(self, prompt=head + self.prompt)

    def measures(self, kept: Kept) -> Measures:
        """Return whether the text is one of the answers, but for case, punctuation and blanks around it."""
        is_right = _plain(kept.strip()) in map(_plain, self.answers)
        return {"exact_match": (float(is_right), 1.0)}


@dataclass(frozen=True, kw_only=True)
class Document(ScoredItem):
    """Something to predict, whole or in windows."""

    window: Window | None = None

    @abstractmethod
    def whole(self, encoding: Encoding) -> Request:
        """Return all of it after what every text begins with."""

    def requests(self, encoding: Encoding) -> list[Request]:
        """Return all of it, or its windows."""
        whole = self.whole(encoding)
        return list(self.window.requests(whole.continuation, whole.context)) if self.window else [whole]

    def kept(self, scores: Sequence[Scored], encoding: Encoding) -> Kept:
        """Return the number of tokens, their loss in nats, and that of the first 1, 2, 4, 8 and so on."""
        losses = [-value for each in scores for value in each.log_probabilities.double().tolist()]
        powers = range(len(losses).bit_length() if self.window is None else 0)
        return {
            "tokens": len(losses),
            "nats": math.fsum(losses),
            "first": [math.fsum(losses[: 2**power]) for power in powers],
        }

    @abstractmethod
    def num_bytes_of(self, kept: Kept) -> int:
        """Return the bytes of the text, by which its loss is divided."""

    def measures(self, kept: Kept) -> Measures:
        """Return what the loss is per byte and token."""
        nats, num_bytes = kept["nats"], float(self.num_bytes_of(kept))
        return {
            "bits_per_byte": (nats / math.log(2), num_bytes),
            "byte_perplexity": (nats, num_bytes),
            "token_perplexity": (nats, float(kept["tokens"])),
        }


@dataclass(frozen=True, kw_only=True)
class Text(Document):
    """A text to predict.

    num_bytes, num_words  of the text, by which its loss is divided
    """

    text: str
    num_bytes: int
    num_words: int

    @classmethod
    def of(cls, text: str, window: Window | None = None, *, counted: str | None = None) -> Self:
        """Return the item of a text.

        counted  the text whose bytes and words count, where that is another form of it
        """
        counted = text if counted is None else counted
        words = len(re.split(r"\s+", counted))
        return cls(text=text, window=window, num_bytes=len(counted.encode()), num_words=words)

    def whole(self, encoding: Encoding) -> Request:
        """Return the text as tokens."""
        return encoding.whole(self.text)

    def num_bytes_of(self, kept: Kept) -> int:
        """Return the bytes that count."""
        return self.num_bytes

    def measures(self, kept: Kept) -> Measures:
        """Return what the loss is per byte, token and word."""
        return super().measures(kept) | {"word_perplexity": (kept["nats"], float(self.num_words))}


@dataclass(frozen=True, kw_only=True)
class Tokens(Document):
    """A document of a token store, to predict by models of the tokenizer that the store was made with.

    source  where it is, for errors
    """

    tokens: tuple[int, ...]
    source: str = field(repr=False, compare=False)

    def whole(self, encoding: Encoding) -> Request:
        """Return the tokens without the end-of-text token that ends a document in a store.

        Raises DataError for a token that the tokenizer does not have.
        """
        tokenizer, tokens = encoding.tokenizer, self.tokens
        unknown = [token for token in tokens if not 0 <= token < tokenizer.vocabulary_size]
        if unknown:
            raise DataError(
                f"{self.source}: it holds token {unknown[0]}, but the tokenizer of the model, "
                f"{tokenizer.name}, has the ids 0 to {tokenizer.vocabulary_size - 1:,}. The store was made "
                "with another one."
            )
        if tokens and tokens[-1] == tokenizer.end_of_text:
            tokens = tokens[:-1]
        return Request(encoding.prompt(""), tokens)

    def kept(self, scores: Sequence[Scored], encoding: Encoding) -> Kept:
        """Return what is kept of any document, and the bytes that its tokens stand for."""
        num_bytes = len(encoding.tokenizer.decode_bytes(self.tokens))
        return super().kept(scores, encoding) | {"bytes": num_bytes}

    def num_bytes_of(self, kept: Kept) -> int:
        """Return the bytes that the tokens stand for."""
        return int(kept["bytes"])


def _place_of_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _plain(text: str) -> str:
    return text.lower().translate(_NO_PUNCTUATION)
