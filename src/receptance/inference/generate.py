"""The plain loop that writes text, one token at a time. Whatever is faster must write the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference.sampling import Sampling, sample, uniform
from receptance.inference.stop_strings import StopStrings
from receptance.models import AnyModel, State
from receptance.tokenizers import Tokenizer

FinishReason = Literal["length", "stop", "end_of_text"]

# Tokens read in one pass: bounds the memory that a long prompt takes; larger ones are hardly faster.
SPAN = 512


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One token that the model chose, and the text that became certain with it.

    The text may be empty while a character is incomplete or a stop string may be under way. The last piece
    alone has a finish reason: max_tokens was reached ("length"), a stop string came, which the text leaves
    out ("stop"), or the model ended the text by its own token for that ("end_of_text").
    """

    token: int
    text: str
    finish_reason: FinishReason | None = None


@torch.inference_mode()
def read(
    model: AnyModel, tokens: Int[Tensor, "batch time"], state: State | None = None, *, span: int = SPAN
) -> tuple[Float[Tensor, "batch vocabulary"], State]:
    """Read tokens and return the logits of the next token alone, and the state after them.

    Reads at most `span` tokens in one pass, and takes no logits but the last, so that memory does not grow
    with the text. Without a state the text begins here. Raises ConfigError when there are no tokens.
    """
    if tokens.shape[1] == 0:
        raise ConfigError("There are no tokens to read, so no next token can be scored.")
    for part in torch.split(tokens, span, dim=1):
        hidden, after = model.features(part, state)
        state = after
    return model.head(hidden[:, -1]), after


def generate(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop: str | Sequence[str] = (),
    state: State | None = None,
) -> Iterator[Piece]:
    """Continue a prompt, given as token ids, and yield a piece for each new token as soon as it is there.

    An empty prompt starts a new document: the model reads its end-of-text token first. The state is what the
    model remembers before the prompt, a batch of one; without one it has seen nothing. The chance of a token
    depends on the seed and on its position in the text, so going on with a longer prompt repeats nothing.

    Raises ConfigError, before the first piece, when an id is outside the vocabulary of the model, a stop
    string is empty or max_tokens is below one.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}, but it must be at least 1.")
    prompt = list(prompt) or [tokenizer.end_of_text]
    require_known(torch.tensor(prompt), model.config.vocabulary_size)
    return _pieces(model, tokenizer, prompt, max_tokens, sampling, StopStrings(stop), state)


def require_known(tokens: Int[Tensor, "..."], vocabulary_size: int) -> None:
    """Raise ConfigError when a token id is outside the vocabulary of the model."""
    strangers = tokens[(tokens < 0) | (tokens >= vocabulary_size)]
    if strangers.numel():
        raise ConfigError(
            f"Token {int(strangers[0])} is unknown to the model, whose ids go from 0 to "
            f"{vocabulary_size - 1}: the text was probably encoded with the tokenizer of another model."
        )


def _pieces(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: list[int],
    max_tokens: int,
    sampling: Sampling,
    stops: StopStrings,
    state: State | None,
) -> Iterator[Piece]:
    """Yield one piece a token, until the text ends."""
    decoder = tokenizer.stream()
    end = len(prompt) + max_tokens
    tokens = prompt
    for position in range(len(prompt), end):
        logits, state = read(model, torch.tensor([tokens], device=model.device), state)
        # A model may have more rows than its tokenizer has ids.
        known = logits[0, : tokenizer.vocabulary_size]
        token = int(sample(known, sampling, uniform(sampling.seed, position)))
        tokens = [token]
        if token == tokenizer.end_of_text:
            reason: FinishReason | None = "end_of_text"
            text = ""
        else:
            reason = "length" if position == end - 1 else None
            text = stops.feed(decoder.feed(token))
        if reason:
            text += stops.feed(decoder.flush()) + stops.flush()
        if stops.is_found:
            reason = "stop"
        yield Piece(token=token, text=text, finish_reason=reason)
        if reason:
            return
