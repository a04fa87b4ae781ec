"""Exact speculative decoding: guesses are read with the token before them, in one pass over the weights.

The token that is drawn depends on the logits, the seed and the position alone. So nothing about drawing
changes: a reader serves the loop that writes text, and where that asks for the logits after a token that was
read ahead, they are there, to the bit. Guesses that were wrong are forgotten at no cost, because the state
after each token is there too.

Leviathan et al. 2023, "Fast inference from transformers via speculative decoding", accept guesses by chance,
so that the distribution of texts stays as it was; here each text does.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference.drafts import Drafter
from receptance.inference.history import History
from receptance.inference.reading import Reader, Runtime, SteppingRuntime, read
from receptance.inference.sampling import Sampling
from receptance.inference.worth import Worth
from receptance.models import AnyModel, State


class Speculation:
    """Reads ahead what a drafter guesses, as far as that pays; for one text at a time.

    drafted, accepted  how many guessed tokens were read ahead, and how many of them were right
    """

    def __init__(self, drafter: Drafter, clock: Callable[[], float] = time.perf_counter) -> None:
        self.drafted = 0
        self.accepted = 0
        self._drafter = drafter
        self._clock = clock

    def begin(self, text: History, sampling: Sampling, max_tokens: int) -> Reader:
        """Follow a text for which so many tokens are drawn at most, and return what reads them.

        Raises ConfigError when its model is not in a runtime that can do this to the bit, or the drafter does
        not know a token.
        """
        if not isinstance(text.model, SteppingRuntime):
            raise ConfigError(
                "Speculation must not change the text, and only the native runtime reads several tokens at "
                "once to the bit as it reads one: run the model there, or do not speculate."
            )
        self._drafter.begin(text, sampling)
        self._text, self._model = text, text.model
        self._end = len(text) + max_tokens
        self._worth = Worth()
        self._rest = 0
        self._kind = 0
        self._guesses: deque[int] = deque()  # for the next tokens
        self._ahead: deque[tuple[Tensor, State]] = deque()  # what was read after each guess, if it was
        self._state: State | None = None  # before the first of these
        return self.read

    def read(
        self, model: AnyModel | Runtime, tokens: Int[Tensor, "batch time"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch vocabulary"], State]:
        """Do what `reading.read` does; one token may be known already, or others be read with it."""
        if tokens.numel() != 1:
            return read(model, tokens, state)
        token = int(tokens)
        is_right = self._score(token)
        if is_right and self._ahead and state is self._state:
            self.accepted += 1
            logits, self._state = self._ahead.popleft()
            return logits.clone(), self._state
        guesses = self._guess(model.config.vocabulary_size)
        start = self._clock()
        if guesses:
            logits, self._state = self._read_ahead([token, *guesses], state)
        else:
            logits, self._state = read(model, tokens, state)
            self._ahead.clear()
        self._worth.took(1 + len(guesses), self._clock() - start)
        return logits, self._state

    @torch.inference_mode()
    def _read_ahead(self, tokens: list[int], state: State | None) -> tuple[Tensor, State]:
        """Return what `read` gives after the first token; keep for later what comes after the others."""
        span, states = self._model.steps(torch.tensor([tokens]), state)
        logits, *ahead = span.transpose(0, 1).unbind()
        self._ahead = deque(zip(ahead, states[1:], strict=True))
        self.drafted += len(ahead)
        return logits.clone(), states[0]  # so that whoever keeps it does not keep the whole span

    def _score(self, token: int) -> bool:
        """Return whether the token was guessed; forget the guesses that follow a wrong one."""
        if not self._guesses:
            return False
        is_right = self._guesses.popleft() == token
        self._worth.guessed(self._kind, is_right)
        if not is_right:
            self._guesses.clear()
        return is_right

    def _guess(self, vocabulary_size: int) -> list[int]:
        """Return the tokens to read ahead; a guess may also be made only to see later whether it is right."""
        self._guesses.clear()
        self._rest -= 1
        most = self._end - len(self._text) - 1
        kind = self._drafter.look() if most > 0 else None
        if kind is None:
            return []
        count = self._worth.count(kind, most)
        if not count and self._rest > 0:
            return []
        self._rest = self._drafter.rest
        start = self._clock()
        draft = self._drafter.draft(count or 1)
        self._worth.guessing_took((self._clock() - start) / (count or 1))
        self._kind = kind
        self._guesses.extend(itertools.takewhile(lambda token: 0 <= token < vocabulary_size, draft))
        return list(self._guesses) if count else []
