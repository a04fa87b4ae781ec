"""What the model of a run makes of a batch: the loss, the state after it, and whether all of it is finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from receptance.data.windows import Batch
from receptance.errors import DivergenceError
from receptance.models import AnyModel, State
from receptance.training.carried import Carried
from receptance.training.config import TrainingConfig
from receptance.training.distributed import ALONE, World
from receptance.training.finite import first_not_finite, largest
from receptance.training.randomness import seeded
from receptance.training.sharding import is_sharded

# tokens, targets, lengths, state -> loss to differentiate, nats per token, the largest absolute value among
# what the head read and the state, for a look at whether all is finite, and the state after the tokens;
# without targets, both losses are 0
Loss = Callable[[Tensor, Tensor | None, Tensor | None, State | None], tuple[Tensor, Tensor, Tensor, State]]


class Reading(NamedTuple):
    """What came of a chunk: what a `Loss` returns."""

    loss: Tensor
    nats: Tensor
    extent: Tensor
    end: State


class Reader:
    """Reads batches with a model: to learn from them, or to measure how well it knows them."""

    def __init__(
        self,
        model: AnyModel,
        config: TrainingConfig,
        world: World = ALONE,
        carried: Carried | None = None,
    ) -> None:
        self.model = model
        self.carried = carried
        self._together = world if is_sharded(model.head.weight) else ALONE  # who must read at the same time
        weights = {"max_logit_weight": config.max_logit_weight, "z_loss_weight": config.z_loss_weight}

        def loss(
            tokens: Tensor, targets: Tensor | None, lengths: Tensor | None, state: State | None
        ) -> tuple[Tensor, Tensor, Tensor, State]:
            loss, nats, hidden, end = model.loss(tokens, targets, state, lengths, **weights)
            return loss, nats, largest(hidden, *end.tensors().values()), end

        self._eager_loss: Loss = loss
        self.loss: Loss = torch.compile(loss, dynamic=False) if config.compile else loss

    def learn(
        self,
        place: tuple[int, ...],
        number: int,
        chunk: Batch,
        state: State | None,
        *,
        needs_loss: bool = True,
    ) -> tuple[Tensor, Tensor, State]:
        """Read a chunk, as `chunks.Read` says, of the batch in this place, which decides what drops out.

        Raises DivergenceError where the loss, or the state after the chunk, is not finite.
        """
        if self.carried is not None and chunk.from_streams is not None:
            state = self.carried.before(chunk.from_streams)
        found = self.read(place, number, chunk, state, needs_loss=needs_loss)
        with self._together.together():
            if fault := self.fault(found, chunk, state):
                raise fault
        if self.carried is not None and chunk.to_streams is not None:
            self.carried.keep(chunk.to_streams, found.end)
        return found.loss, found.nats, found.end

    def read(
        self,
        place: tuple[int, ...],
        number: int,
        chunk: Batch,
        state: State | None = None,
        *,
        needs_loss: bool = True,
    ) -> Reading:
        """Do as `learn` does, whatever comes of it."""
        tokens, targets, lengths = self._on_device(chunk)
        with seeded(self.model.device, *place, number):  # for dropout
            return Reading(*self.loss(tokens, targets if needs_loss else None, lengths, state))

    def fault(self, found: Reading, chunk: Batch, state: State | None) -> DivergenceError | None:
        """Say what is not finite in what came of a chunk, or None."""
        is_bad = not math.isfinite(float(found.loss.detach() + found.extent))
        if not self._together.any(is_bad):
            return None
        where = first_not_finite(self.model, self._on_device(chunk)[0], state, self._together)
        is_loss = not math.isfinite(float(found.loss.detach()))
        what = f"the loss is {float(found.nats)}" if is_loss else "an output or a state is not finite"
        return DivergenceError(f"{what}: {where}") if is_bad else None

    @torch.no_grad()
    def measure(self, chunks: Sequence[Batch]) -> float:
        """Return the nats of all that is to be learnt of a batch, whose chunks follow one another in time."""
        total, state = 0.0, None
        with evaluating(self.model):
            for chunk in chunks:
                _, nats, _, state = self._eager_loss(*self._on_device(chunk), state)
                total += float(nats) * chunk.num_learnt
        return total

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        tokens, targets = (
            torch.from_numpy(part).to(self.model.device) for part in (batch.tokens, batch.targets)
        )
        return tokens, targets, None if batch.lengths is None else torch.from_numpy(batch.lengths)


@contextmanager
def evaluating(model: AnyModel) -> Iterator[None]:
    """Let a model that is trained read without dropout."""
    model.eval()
    try:
        yield
    finally:
        model.train()
