"""The plain loop that writes text, one token at a time. Whatever is faster must write the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference.penalties import Counts, reference_uncounted
from receptance.inference.sampling import Sampling, log_probabilities, sample, uniform
from receptance.inference.stop_strings import StopStrings
from receptance.models import AnyModel, Config, LanguageModel, State
from receptance.tokenizers import Tokenizer

FinishReason = Literal["length", "stop", "end_of_text"]

# Tokens read in one pass: bounds the memory that a long prompt takes; larger ones are hardly faster.
SPAN = 512


@runtime_checkable
class Runtime(Protocol):
    """What runs a model in another way than its torch module, with the same meaning."""

    @property
    def config(self) -> Config:
        """The sizes of the model."""

    @property
    def device(self) -> torch.device:
        """Where it takes its tokens."""

    def __call__(
        self, tokens: Int[Tensor, "batch time"], state: State | None = None, *, last_only: bool = False
    ) -> tuple[Float[Tensor, "batch time vocabulary"], State]:
        """Read a span of tokens; with `last_only` the logits are those of the last alone."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One token that the model chose, and the text that became certain with it.

    The text may be empty while a character is incomplete or a stop string may be under way. The last piece
    alone has a finish reason: max_tokens was reached ("length"), a stop string came, which the text leaves
    out ("stop"), or the model ended the text by its own token for that ("end_of_text").

    Where they were asked for, there is the log-probability that the model itself gives the token, and those
    of the most likely tokens, as id and log-probability; see `sampling.log_probabilities`.
    """

    token: int
    text: str
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@torch.inference_mode()
def read(
    model: AnyModel | Runtime,
    tokens: Int[Tensor, "batch time"],
    state: State | None = None,
    *,
    span: int = SPAN,
) -> tuple[Float[Tensor, "batch vocabulary"], State]:
    """Read tokens and return the logits of the next token alone, and the state after them.

    Reads at most `span` tokens in one pass, and takes no logits but the last, so that memory does not grow
    with the text. Without a state the text begins here. Raises ConfigError when there are no tokens.
    """
    if tokens.shape[1] == 0:
        raise ConfigError("There are no tokens to read, so no next token can be scored.")
    for part in torch.split(tokens.to(model.device), span, dim=1):
        if isinstance(model, LanguageModel):
            seen, after = model.features(part, state)
        else:
            seen, after = model(part, state, last_only=True)
        state = after
    last = seen[:, -1]
    return (model.head(last) if isinstance(model, LanguageModel) else last), after


def generate(
    model: AnyModel | Runtime,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop: str | Sequence[str] = (),
    state: State | None = None,
    logprobs: int | None = None,
) -> Iterator[Piece]:
    """Continue a prompt, given as token ids, and yield a piece for each new token as soon as it is there.

    An empty prompt starts a new document: the model reads its end-of-text token first. The state is what the
    model remembers before the prompt, a batch of one; without one it has seen nothing. The chance of a token
    depends on the seed and on its position in the text, so going on with a longer prompt repeats nothing.
    With logprobs each piece has log-probabilities: of its token, and of so many of the most likely.

    Raises ConfigError, before the first piece, when an id is outside the vocabulary of the model, a stop
    string is empty, max_tokens is below one or logprobs below zero.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}, but it must be at least 1.")
    if logprobs is not None and logprobs < 0:
        raise ConfigError(f"logprobs is {logprobs}, but it counts tokens: 0 (the chosen one alone) or above.")
    prompt = list(prompt) or [tokenizer.end_of_text]
    require_known(torch.tensor(prompt), model.config.vocabulary_size)
    sampling.require_known(tokenizer.vocabulary_size)
    if sampling.frequency_penalty and sampling.uncounted is None:
        sampling = replace(sampling, uncounted=reference_uncounted(tokenizer))
    return _pieces(model, tokenizer, prompt, max_tokens, sampling, StopStrings(stop), state, logprobs)


def require_known(tokens: Int[Tensor, "..."], vocabulary_size: int) -> None:
    """Raise ConfigError when a token id is outside the vocabulary of the model."""
    strangers = tokens[(tokens < 0) | (tokens >= vocabulary_size)]
    if strangers.numel():
        raise ConfigError(
            f"Token {int(strangers[0])} is unknown to the model, whose ids go from 0 to "
            f"{vocabulary_size - 1}: the text was probably encoded with the tokenizer of another model."
        )


def _pieces(
    model: AnyModel | Runtime,
    tokenizer: Tokenizer,
    prompt: list[int],
    max_tokens: int,
    sampling: Sampling,
    stops: StopStrings,
    state: State | None,
    logprobs: int | None,
) -> Iterator[Piece]:
    """Yield one piece a token, until the text ends."""
    decoder = tokenizer.stream()
    end = len(prompt) + max_tokens
    tokens, counts = prompt, Counts()
    for position in range(len(prompt), end):
        logits, state = read(model, torch.tensor([tokens]), state)
        # A model may have more rows than its tokenizer has ids.
        known = logits[0, : tokenizer.vocabulary_size]
        token = int(sample(known, sampling, uniform(sampling.seed, position), counts))
        tokens = [token]
        if sampling.penalises:
            counts = counts.after(token, sampling.penalty_decay, sampling.uncounted or ())
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
        logprob, top = (None, ()) if logprobs is None else log_probabilities(known, token, logprobs)
        yield Piece(token=token, text=text, finish_reason=reason, logprob=logprob, top_logprobs=top)
        if reason:
            return
