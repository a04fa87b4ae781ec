"""Reading a text with a model of any kind, for the logits of what follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.errors import ConfigError
from receptance.models import AnyModel, Config, LanguageModel, State

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


@runtime_checkable
class SteppingRuntime(Runtime, Protocol):
    """A runtime that reads several tokens at once as if one by one."""

    def steps(
        self, tokens: Int[Tensor, "batch time"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Sequence[State]]:
        """Return the logits and the state after each token, to the bit those of a call for each."""


# What reads a text for the logits of the next token alone, as `read` does.
Reader = Callable[[AnyModel | Runtime, Tensor, State | None], tuple[Tensor, State]]


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


def require_known(tokens: Int[Tensor, "..."], vocabulary_size: int) -> None:
    """Raise ConfigError when a token id is outside the vocabulary of the model."""
    strangers = tokens[(tokens < 0) | (tokens >= vocabulary_size)]
    if strangers.numel():
        raise ConfigError(
            f"Token {int(strangers[0])} is unknown to the model, whose ids go from 0 to "
            f"{vocabulary_size - 1}: the text was probably encoded with the tokenizer of another model."
        )
