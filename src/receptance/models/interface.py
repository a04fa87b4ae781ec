"""What every generation of RWKV offers: `model(tokens, state) -> (logits, state)`.

The same call trains (long spans, gradients, from any state), prefills and decodes (one token). The state is
handed in and a new one is handed back; nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes of a model, read from its checkpoint; each generation adds its own."""

    generation: ClassVar[str]

    vocabulary_size: int
    num_layers: int
    hidden_size: int


@dataclass(frozen=True, kw_only=True)
class State:
    """All that a model remembers of a batch of texts: named tensors, each `[layer, batch, ...]`."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return a state with the function applied to each of its tensors."""
        return replace(self, **{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, without copying them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def detach(self) -> Self:
        """Return the same values cut off from the gradient: truncated backpropagation through time."""
        return self.map(Tensor.detach)

    def clone(self) -> Self:
        """Return a copy that shares no memory with this one."""
        return self.map(Tensor.clone)

    def row(self, index: int) -> Self:
        """Return the state of one text of the batch, as a batch of one."""
        return self.map(lambda tensor: tensor[:, index : index + 1])

    @property
    def num_bytes(self) -> int:
        """Memory that the state takes; it does not grow with the text."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())


ConfigT = TypeVar("ConfigT", bound=Config)
StateT = TypeVar("StateT", bound=State)


class LanguageModel(nn.Module, Generic[ConfigT, StateT]):
    """A language model of any generation.

    A subclass gives `config`, `head`, `initial_state` and `features`; what follows from them stands here.
    """

    config: ConfigT
    head: nn.Linear

    def initial_state(self, batch: int) -> StateT:
        """Return the state before the first token, on the model's device."""
        raise NotImplementedError

    def features(
        self, tokens: Int[Tensor, "batch time"], state: StateT | None = None
    ) -> tuple[Float[Tensor, "batch time channel"], StateT]:
        """Read a span of tokens and return what the head sees: the last layer norm's output.

        Training takes the loss from here with `kernels.linear_cross_entropy`, so that the logits of a whole
        batch never exist in float32.
        """
        raise NotImplementedError

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Fill every parameter with its starting value for training from scratch, in place."""
        raise NotImplementedError

    def forward(
        self, tokens: Int[Tensor, "batch time"], state: StateT | None = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], StateT]:
        """Read a span of tokens. The same call trains, prefills and decodes (time = 1).

        Without a state the text begins here. Any split of a text into spans gives the same logits and the
        same final state. `logits[:, t]` scores the token that follows `tokens[:, t]`.
        """
        hidden, state = self.features(tokens, state)
        return self.head(hidden), state

    @property
    def num_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the matrices, and of the activations."""
        return self.head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.head.weight.device

    def cast_matrices(self, dtype: torch.dtype) -> Self:
        """Put every matrix into `dtype`, in place, and leave the vectors in their own.

        Vectors (decays, mixes, norms) cost no memory, and decays near one would collapse in 16 bits.
        """
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                parameter.data = parameter.data.to(dtype)
        return self


AnyModel = LanguageModel[Any, Any]
