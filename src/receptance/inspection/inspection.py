"""What a model remembers of a text, and what its predictions rest on: all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference import Loaded
from receptance.inference.reading import read, require_known
from receptance.inspection.decays import Decays, decays
from receptance.inspection.influence import Influence, influence
from receptance.inspection.memory import Memory, memory
from receptance.inspection.predictions import Predictions, predictions
from receptance.models import State

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
    lm: Loaded,
    tokens: Int[Tensor, " token"],
    *,
    limit: int = TOKENS,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Look at the last `limit` tokens of a text; those before them are read first, as what is remembered.

    advance  is told how many tokens were read without an earlier one, and how many are to be

    The text begins from the model's tuned state, if it has one, and is read in its runtime; only the decays
    are those of the torch module.

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
    require_known(tokens, lm.config.vocabulary_size)
    runtime = lm.runtime
    state: State | None = lm.tuned_state
    tokens = tokens.to(runtime.device)
    before, tokens = tokens[:-limit], tokens[-limit:]
    first = None
    if len(before):
        logits, state = read(runtime, before[None], state)
        first = logits[0]
    predicted = predictions(runtime, tokens, state, first)
    return Inspection(
        tokens=tokens,
        num_before=len(before),
        predictions=predicted,
        influence=influence(runtime, tokens, predicted.log_probabilities, state, advance),
        memory=memory(runtime, tokens, state),
        decays=decays(lm.model, tokens, state),
    )
