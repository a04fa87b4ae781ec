"""What keeps a run from spoiling its weights: steps that are not finite, or whose loss is a spike."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, NonNegativeInt

from receptance.errors import DivergenceError
from receptance.training.config import GuardConfig

# Steps over which the mean of the losses is taken, and before which no loss is called a spike.
WINDOW = 100

Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the guard remembers between steps; a snapshot keeps it."""

    skipped: NonNegativeInt = 0  # steps in a row, up to now
    losses: NonNegativeInt = 0  # that the mean is of
    mean: Finite = 0.0
    variance: Finite = 0.0

    def after(self, loss: float) -> Memory:
        """Return the memory after a step that was good."""
        share = max(1 / (self.losses + 1), 1 / WINDOW)  # the plain mean, until there are enough
        distance = loss - self.mean
        return Memory(
            losses=self.losses + 1,
            mean=self.mean + share * distance,
            variance=(1 - share) * (self.variance + share * distance**2),
        )


class Guard:
    """Judges each step before the optimizer touches the weights, and says what to do with a bad one."""

    def __init__(self, config: GuardConfig, memory: Memory) -> None:
        self.config = config
        self.memory = memory
        self._rolled_back_to: int | None = None  # the step of that snapshot

    def check(self, loss: float) -> None:
        """Raise DivergenceError where a loss is a spike."""
        memory, config = self.memory, self.config
        if not config.spike or memory.losses < WINDOW:
            return
        limit = memory.mean + config.spike * math.sqrt(memory.variance)
        if loss > limit:
            raise DivergenceError(
                f"the loss is {loss:.4f}, a spike: the last {WINDOW} steps or so have a mean of "
                f"{memory.mean:.4f}, and guard.spike={config.spike:g} sets the limit to {limit:.4f}"
            )

    def accept(self, loss: float) -> None:
        """Remember a step that was good."""
        self.memory = self.memory.after(loss)

    def may_skip(self) -> bool:
        """Say whether a bad step may be left out, and remember that it is."""
        if self.config.policy == "stop" or self.memory.skipped >= self.config.skips:
            return False
        self.memory = replace(self.memory, skipped=self.memory.skipped + 1)
        return True

    def may_roll_back(self, step: int) -> bool:
        """Say whether the snapshot of a step may be gone back to: once, or the run would go in circles."""
        if self.config.policy != "rollback" or self._rolled_back_to == step:
            return False
        self._rolled_back_to = step
        self.memory = replace(self.memory, skipped=0)
        return True
