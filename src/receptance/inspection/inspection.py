"""What a model remembers of a text, and what its predictions rest on: all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference.reading import read, require_known
from receptance.inspection.decays import Decays, decays
from receptance.inspection.influence import Influence, influence
from receptance.inspection.memory import Memory, memory
from receptance.inspection.predictions import Predictions, predictions
from receptance.models import AnyModel, State

TOKENS = 256
MOST_TOKENS = 1024  # the work and the page grow with the square


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What there is to see of a model that reads a text.

    tokens      what was looked at
    num_before  tokens of the text that were read before these
    """

    tokens: Int[Tensor, " token"]
    num_before: int
    predictions: Predictions
    influence: Influence
    memory: Memory
    decays: Decays


def inspect(
    model: AnyModel,
    tokens: Int[Tensor, " token"],
    *,
    limit: int = TOKENS,
    state: State | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Look at the last `limit` tokens of a text; those before them are read first, as what is remembered.

    state    what the model remembers before the text, a batch of one
    advance  is told how many of the tokens have been left out in turn, and how many there are

    Raises ConfigError for a text of fewer than 2 tokens, for a token that the model does not know, and for a
    limit that is not from 2 to 1,024.
    """
    if not 2 <= limit <= MOST_TOKENS:
        raise ConfigError(
            f"{limit:,} tokens cannot be inspected, but 2 to {MOST_TOKENS:,} can: the work grows with the "
            "square of their number."
        )
    if len(tokens) < 2:
        raise ConfigError(f"A text is inspected with at least 2 tokens, but there are {len(tokens)}.")
    require_known(tokens, model.config.vocabulary_size)
    tokens = tokens.to(model.device)
    before, tokens = tokens[:-limit], tokens[-limit:]
    first = None
    if len(before):
        logits, state = read(model, before[None], state)
        first = logits[0]
    predicted = predictions(model, tokens, state, first)
    return Inspection(
        tokens=tokens,
        num_before=len(before),
        predictions=predicted,
        influence=influence(model, tokens, predicted.log_probabilities, state, advance),
        memory=memory(model, tokens, state),
        decays=decays(model, tokens, state),
    )
