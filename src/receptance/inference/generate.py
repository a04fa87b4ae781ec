"""The plain loop that writes text, one token at a time. Whatever is faster must write the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from receptance.errors import ConfigError
from receptance.inference.history import History
from receptance.inference.penalties import Counts, reference_uncounted
from receptance.inference.reading import Reader, Runtime, read
from receptance.inference.sampling import Sampling, log_probabilities, sample, uniform
from receptance.inference.speculation import Speculation
from receptance.inference.stop_strings import StopStrings
from receptance.models import AnyModel, State
from receptance.tokenizers import StreamDecoder, Tokenizer

FinishReason = Literal["length", "stop", "end_of_text"]
LONGEST_CHARACTER = 4  # bytes


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
    return go_on(
        History(model, state),
        tokenizer,
        prompt,
        max_tokens=max_tokens,
        sampling=sampling,
        stop=stop,
        logprobs=logprobs,
    )


def go_on(
    history: History,
    tokenizer: Tokenizer,
    prompt: Sequence[int] = (),
    *,
    max_tokens: int,
    sampling: Sampling,
    stop: str | Sequence[str] = (),
    logprobs: int | None = None,
    speculation: Speculation | None = None,
) -> Iterator[Piece]:
    """Do what `generate` does after a text that was read before, which grows by all that is read and written.

    Without a prompt the text goes on as if it had never stopped: with the same seed the tokens are those that
    one call would have given, and the penalties know what was written. What is written after a prompt is
    penalised for itself alone. A stop string is left out of the pieces, but the model wrote it, so it is in
    the history. A speculation makes it faster where it can, and changes nothing else.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens is {max_tokens}, but it must be at least 1.")
    if logprobs is not None and logprobs < 0:
        raise ConfigError(f"logprobs is {logprobs}, but it counts tokens: 0 (the chosen one alone) or above.")
    sampling.require_known(tokenizer.vocabulary_size)
    stops = StopStrings(stop)
    if sampling.frequency_penalty and sampling.uncounted is None:
        sampling = replace(sampling, uncounted=reference_uncounted(tokenizer))
    history.extend(prompt if len(prompt) or len(history) else [tokenizer.end_of_text])
    reader = speculation.begin(history, sampling, max_tokens) if speculation else read
    return _pieces(history, tokenizer, max_tokens, sampling, stops, logprobs, reader)


def _pieces(
    history: History,
    tokenizer: Tokenizer,
    max_tokens: int,
    sampling: Sampling,
    stops: StopStrings,
    logprobs: int | None,
    reader: Reader,
) -> Iterator[Piece]:
    """Yield one piece a token, until the text ends."""
    decoder = _decoder(tokenizer, history)
    fading = sampling.penalty_decay, sampling.uncounted or ()
    counts = Counts.of(history.written if sampling.penalises else (), *fading)
    for remaining in range(max_tokens, 0, -1):
        # A model may have more rows than its tokenizer has ids.
        known = history.next_logits(reader)[: tokenizer.vocabulary_size]
        token = int(sample(known, sampling, uniform(sampling.seed, len(history)), counts))
        history.append(token)
        if sampling.penalises:
            counts = counts.after(token, *fading)
        if token == tokenizer.end_of_text:
            reason: FinishReason | None = "end_of_text"
            text = ""
        else:
            reason = "length" if remaining == 1 else None
            text = stops.feed(decoder.feed(token))
        if reason:
            text += stops.feed(decoder.flush()) + stops.flush()
        if stops.is_found:
            reason = "stop"
        logprob, top = (None, ()) if logprobs is None else log_probabilities(known, token, logprobs)
        yield Piece(token=token, text=text, finish_reason=reason, logprob=logprob, top_logprobs=top)
        if reason:
            return


def _decoder(tokenizer: Tokenizer, history: History) -> StreamDecoder:
    """Return a decoder that knows the beginning of a character in which the written part ended."""
    decoder = tokenizer.stream()
    for token in history.written[1 - LONGEST_CHARACTER :]:
        decoder.feed(token)
    return decoder
