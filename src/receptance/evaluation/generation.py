"""Texts that go on greedily, many at once, each until a stop string, its end-of-text token or its length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from receptance.errors import ConfigError
from receptance.evaluation.contexts import BATCH_SIZE, Read, fork, read_contexts
from receptance.inference.reading import read
from receptance.inference.stop_strings import StopStrings
from receptance.models import AnyModel, State
from receptance.runtimes import NativeModel
from receptance.tokenizers import Tokenizer


def write_greedily(
    model: AnyModel | NativeModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[str],
    max_tokens: int,
    state: State | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[int, str]]:
    """Yield (index of a prompt, what the model writes after it), in the order in which they are ready.

    Always the likeliest token is written. A text ends before the first stop string, with the end-of-text
    token, or after `max_tokens`.

    Raises ConfigError for an empty prompt, an unknown token, an empty stop string, or a number below one.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}, but it must be at least 1.")
    StopStrings(stop)  # refuses an empty one before anything is read
    batches = read_contexts(model, prompts, state=state, batch_size=batch_size)
    return _written(model, tokenizer, batches, stop, max_tokens)


@torch.inference_mode()
def _written(
    model: AnyModel | NativeModel,
    tokenizer: Tokenizer,
    batches: Iterator[Read],
    stop: Sequence[str],
    max_tokens: int,
) -> Iterator[tuple[int, str]]:
    for indices, logits, state in batches:
        texts = [_Text(index, tokenizer, stop) for index in indices]
        for remaining in range(max_tokens, 0, -1):
            # A model may have more rows than its tokenizer has ids.
            tokens = logits[:, : tokenizer.vocabulary_size].argmax(-1)
            rows = []
            for row, (text, token) in enumerate(zip(texts, tokens.tolist(), strict=True)):
                if text.take(token) or remaining == 1:
                    yield text.index, text.ended()
                else:
                    rows.append(row)
            if not rows:
                break
            texts = [texts[row] for row in rows]
            logits, state = read(model, tokens[rows][:, None], fork(state, rows))


class _Text:
    """One text as it grows."""

    def __init__(self, index: int, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.index = index
        self._end_of_text = tokenizer.end_of_text
        self._decoder = tokenizer.stream()
        self._stops = StopStrings(stop)
        self._text = ""

    def take(self, token: int) -> bool:
        """Add a token, and say whether the text has ended."""
        if token == self._end_of_text:
            return True
        self._text += self._stops.feed(self._decoder.feed(token))
        return self._stops.is_found

    def ended(self) -> str:
        """Return the text."""
        return self._text + self._stops.feed(self._decoder.flush()) + self._stops.flush()
