"""A text as a model has read it: its tokens, and what the model remembered at chosen positions of it.

States are never changed in place. So a kept point costs the memory of one state and no copying, going back to
it costs nothing, and a fork shares all points with what it was forked from.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from receptance.errors import ConfigError
from receptance.inference.reading import Reader, Runtime, read, require_known
from receptance.models import AnyModel, State


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a model remembers at a position of a text.

    state   a batch of one; None where nothing was read and nothing is remembered
    logits  of the next token; None where nothing was read
    """

    state: State | None
    logits: Float[Tensor, " vocabulary"] | None


class History:
    """The tokens of one text, read by a model as far as somebody has asked for what follows.

    `keep` marks the end of the text so far, and `rewind` goes back to any position: at once to a kept one, or
    by reading again from the last kept one before it. The beginning is always kept.
    """

    def __init__(
        self,
        model: AnyModel | Runtime,
        state: State | None = None,
        *,
        tokens: Sequence[int] = (),
        points: Mapping[int, Point] | None = None,
        num_written: int = 0,
    ) -> None:
        """Begin a text.

        state        what the model remembers before the first token; None: nothing
        tokens       the text, and
        points       what the model remembers at positions of it, to go on with what was saved
        num_written  how many tokens at the end the model has written

        Raises ConfigError when the state is not of one text, or a token is unknown to the model.
        """
        if state is not None and any(tensor.shape[1] != 1 for tensor in state.tensors().values()):
            raise ConfigError("A history begins from the state of one text; `state.row(i)` is that of one.")
        self.model = model
        self._tokens: list[int] = []
        self._points = {0: Point(state=state, logits=None)} | dict(points or {})
        self._read = max(self._points)
        self._latest = self._points[self._read]
        self.extend(tokens)
        self._num_written = num_written

    def __len__(self) -> int:
        """Return how many tokens the text has."""
        return len(self._tokens)

    def __repr__(self) -> str:
        """Say how long it is, and where it can go back to at once."""
        return f"<History of {len(self):,} tokens, {self._read:,} of them read; kept: {[*self.kept]}>"

    @property
    def tokens(self) -> tuple[int, ...]:
        """The text, as a copy."""
        return tuple(self._tokens)

    def since(self, position: int) -> list[int]:
        """Return the tokens from this position on."""
        return self._tokens[position:]

    @property
    def written(self) -> tuple[int, ...]:
        """What the model has written since it was last handed tokens."""
        return tuple(self._tokens[len(self) - self._num_written :])

    @property
    def kept(self) -> tuple[int, ...]:
        """The positions that were kept, from the beginning on."""
        return tuple(sorted(self._points))

    @property
    def points(self) -> dict[int, Point]:
        """What is remembered, by position: where it was kept, and as far as the text was read."""
        return self._points | {self._read: self._latest}

    @property
    def state(self) -> State | None:
        """What the model remembers after the whole text, a batch of one; None where it has seen nothing."""
        self._catch_up()
        return self._latest.state

    def next_logits(self, reader: Reader = read) -> Float[Tensor, " vocabulary"]:
        """Return the logits of the next token; raises ConfigError when there is no token to read yet.

        reader  reads what was not read yet, and gives to the bit what `read` gives
        """
        self._catch_up(reader)
        if self._latest.logits is None:
            raise ConfigError("The text has no tokens yet, so no next token can be scored.")
        return self._latest.logits

    def extend(self, tokens: Sequence[int]) -> None:
        """Hand in tokens that follow; raises ConfigError when one is unknown to the model."""
        self._require_known(tokens)
        if len(tokens):
            self._tokens += tokens
            self._num_written = 0

    def append(self, token: int) -> None:
        """Add a token that the model has written."""
        self._tokens.append(token)
        self._num_written += 1

    def keep(self) -> int:
        """Keep what is remembered at the end of the text, and return this position."""
        self._catch_up()
        self._points[self._read] = self._latest
        return self._read

    def forget(self, position: int) -> None:
        """Let go of a kept position, but not of the beginning; raises ConfigError when it was not kept."""
        if position not in self._points or position == 0:
            raise ConfigError(f"position {position} was not kept, or it is the beginning; kept: {self.kept}.")
        del self._points[position]

    def rewind(self, position: int) -> None:
        """Go back to this many tokens; raises ConfigError when the text has not got so many."""
        if not 0 <= position <= len(self):
            raise ConfigError(f"position is {position}, but the text goes from 0 to {len(self)}.")
        self._num_written = max(self._num_written - (len(self) - position), 0)
        del self._tokens[position:]
        self._points = {place: point for place, point in self._points.items() if place <= position}
        if self._read > position:
            self._read = max(self._points)
            self._latest = self._points[self._read]

    def follow(self, tokens: Sequence[int]) -> int:
        """Make this the text, and return how many tokens it had in common with the one before."""
        self._require_known(tokens)
        pairs = zip(self._tokens, tokens, strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.rewind(common)
        self.extend(tokens[common:])
        return common

    def fork(self) -> History:
        """Return another history that begins alike; what happens to one leaves the other as it is."""
        twin = copy.copy(self)
        twin._tokens, twin._points = list(self._tokens), dict(self._points)
        return twin

    def _require_known(self, tokens: Sequence[int]) -> None:
        require_known(torch.tensor(list(tokens), dtype=torch.int64), self.model.config.vocabulary_size)

    def _catch_up(self, reader: Reader = read) -> None:
        if self._read < len(self):
            unread = torch.tensor([self.since(self._read)])
            logits, state = reader(self.model, unread, self._latest.state)
            self._read, self._latest = len(self), Point(state=state, logits=logits[0])
