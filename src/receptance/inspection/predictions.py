"""What a model expected at each place of a text, and what came."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance.models import AnyModel, State
from receptance.runtimes import NativeModel

LIKELIEST = 5


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The prediction of each token of a text and of the one after it, from all that came before.

    log_probabilities  in nats; row j predicts token j; row 0 is NaN where nothing comes before the text
    tokens             the text
    """

    log_probabilities: Float[Tensor, "prediction vocabulary"]
    tokens: Int[Tensor, " token"]

    @property
    def surprisals(self) -> Float[Tensor, " token"]:
        """-log p of what came, in nats."""
        return -self.log_probabilities[:-1].gather(-1, self.tokens[:, None]).squeeze(-1)

    @property
    def ranks(self) -> Int[Tensor, " token"]:
        """How many tokens were at least as likely as the one that came, itself included: 1 is the choice."""
        return (self.log_probabilities[:-1] >= -self.surprisals[:, None]).sum(-1)

    def likeliest(self, count: int = LIKELIEST) -> tuple[Tensor, Tensor]:
        """Return the ids and the log-probabilities of the likeliest tokens, `[prediction, count]`."""
        values, ids = self.log_probabilities.topk(min(count, self.log_probabilities.shape[-1]))
        return ids, values


@torch.inference_mode()
def predictions(
    model: AnyModel | NativeModel,
    tokens: Int[Tensor, " token"],
    state: State | None = None,
    first: Float[Tensor, " vocabulary"] | None = None,
) -> Predictions:
    """Read the tokens from this state on.

    first  the logits that predict the first token; None where nothing comes before it
    """
    logits, _ = model(tokens[None], state)
    first = logits.new_full(logits.shape[-1:], torch.nan) if first is None else first
    return Predictions(log_probabilities=log_softmax(torch.cat([first[None], logits[0]])), tokens=tokens)


def log_softmax(logits: Float[Tensor, "... vocabulary"]) -> Float[Tensor, "... vocabulary"]:
    """Return the log-probabilities, in float32, or in float64 where the logits are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
