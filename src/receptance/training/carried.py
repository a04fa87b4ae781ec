"""The states that a run carries from step to step, where each sample goes on with the text of an earlier one.

That is truncated backpropagation through time over a text of any length: the gradient ends where a sample
begins, the state does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receptance.data.windows import NO_STREAM
from receptance.errors import TrainingError
from receptance.models import AnyModel, State
from receptance.training.config import Config
from receptance.training.distributed import World

PREFIX = "carried."  # before the name of a state's tensor in a snapshot


class Carried:
    """The states `[layer, stream, ...]` after the last step that changed the weights, and those of this step.

    Every process has the states of all streams, so that a snapshot may go on in any number of them.
    """

    def __init__(self, model: AnyModel, num_streams: int) -> None:
        self._empty: State = model.initial_state(1)
        self._state: State = model.initial_state(num_streams)
        self._next = self._state.map(torch.zeros_like)

    def before(self, streams: NDArray[np.int64]) -> State:
        """Return the state with which rows begin that go on with these streams, `[batch]`."""
        index = torch.from_numpy(streams).to(self._index_device)
        is_new = index == NO_STREAM
        rows = {}
        for name, empty in self._empty.tensors().items():
            found = getattr(self._state, name)[:, index.clamp_min(0)]
            rows[name] = torch.where(is_new.view(-1, *[1] * (found.ndim - 2)), empty, found)
        return replace(self._state, **rows)

    def keep(self, streams: NDArray[np.int64], end: State) -> None:
        """Remember the state after rows that these streams, `[batch]`, go on from."""
        rows = torch.from_numpy(np.flatnonzero(streams != NO_STREAM)).to(self._index_device)
        index = torch.from_numpy(streams).to(self._index_device)[rows]
        for name, tensor in end.detach().tensors().items():
            getattr(self._next, name)[:, index] = tensor[:, rows]

    def accept(self, world: World) -> None:
        """Carry on with what this step has left, in whichever process; all of them must call this."""
        world.add_up(list(self._next.tensors().values()))
        self._state = self._next
        self.discard()

    def discard(self) -> None:
        """Carry on as if the text of this step were not there."""
        self._next = self._state.map(torch.zeros_like)

    def tensors(self) -> dict[str, Tensor]:
        """Return the states by the names that they have in a snapshot."""
        return {f"{PREFIX}{name}": tensor for name, tensor in self._state.tensors().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the states of a snapshot.

        Raises TrainingError where one is missing or of another shape.
        """
        states = {}
        for name, tensor in self._state.tensors().items():
            found = tensors.get(f"{PREFIX}{name}")
            if found is None or found.shape != tensor.shape:
                came = "missing" if found is None else f"{tuple(found.shape)}"
                raise TrainingError(f"'{PREFIX}{name}' is {came}, but the run needs {tuple(tensor.shape)}.")
            states[name] = torch.empty_like(tensor).copy_(found)
        self._state = replace(self._state, **states)

    @property
    def _index_device(self) -> torch.device:
        return next(iter(self._empty.tensors().values())).device


def carried_of(config: Config, model: AnyModel) -> Carried | None:
    """Return what a run that has just begun carries: empty states, or None where samples stand alone."""
    if config.data.order != "sequential":
        return None
    return Carried(model, config.training.batch_size * config.training.accumulation)


def without_carried(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those tensors of a snapshot that are the optimizer's."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
