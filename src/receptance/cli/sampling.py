"""The options that say how tokens are drawn, under the names that users know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.inference import Sampling


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the next token is drawn; see `inference.Sampling`."""

    temperature: Annotated[
        float, Parameter(help="Above 1 more surprising, below 1 less; 0 always takes the most likely token.")
    ] = 1.0
    top_p: Annotated[
        float,
        Parameter(help="Draw among the most likely tokens that together have this probability; 1 is off."),
    ] = 0.85
    top_k: Annotated[int, Parameter(help="Draw among so many of the most likely tokens; 0 is off.")] = 0
    min_p: Annotated[
        float,
        Parameter(help="Draw among the tokens at least this share as likely as the most likely; 0 is off."),
    ] = 0.0
    typical_p: Annotated[
        float,
        Parameter(help="Draw among the most typical tokens that together have this probability; 1 is off."),
    ] = 1.0
    temperature_first: Annotated[
        bool,
        Parameter(
            negative="",
            help="Apply the temperature before the cuts, as OpenAI and transformers do, and not after them, "
            "as the reference of RWKV does.",
        ),
    ] = False
    presence_penalty: Annotated[
        float, Parameter(help="Taken from the logit of each token that was written.")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Parameter(help="Taken from the logit of each token once for each time that it was written.")
    ] = 0.0
    penalty_decay: Annotated[
        float, Parameter(help="What remains of the times that a token was written, after each token.")
    ] = 0.996
    logit_bias: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            allow_leading_hyphen=True,
            help="ID=VALUE is added to the logit of a token; may be given several times.",
        ),
    ] = None
    ban: Annotated[
        list[int] | None,
        Parameter(negative="", help="The id of a token that is never written; may be given several times."),
    ] = None

    def sampling(self, seed: int | None) -> Sampling:
        """Return the settings; raises ConfigError where one cannot be obeyed."""
        from receptance.inference import Sampling, fresh_seed

        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            typical_p=self.typical_p,
            temperature_first=self.temperature_first,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            penalty_decay=self.penalty_decay,
            logit_bias=_biases(self.logit_bias or ()),
            ban=frozenset(self.ban or ()),
            seed=fresh_seed() if seed is None else seed,
        )


REFERENCE = Drawing()


def _biases(texts: Sequence[str]) -> dict[int, float]:
    """Return the biases that were written as ID=VALUE."""
    biases = {}
    for text in texts:
        token, _, value = text.partition("=")
        try:
            biases[int(token)] = float(value)
        except ValueError as error:
            raise ConfigError(
                f"--logit-bias {text!r} is not ID=VALUE, such as 261=-5: the id of a token, and a number."
            ) from error
    return biases
