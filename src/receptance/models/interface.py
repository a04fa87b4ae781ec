"""What every generation of RWKV offers: `model(tokens, state, lengths) -> (logits, state)`.

The same call trains (long spans, gradients, from any state), prefills and decodes (one token). The state is
handed in and a new one is handed back; nothing is changed in place. With lengths, the rows of a batch end
where they end, each as if it were alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from receptance import kernels
from receptance.errors import ConfigError
from receptance.kernels.lengths import check_lengths, is_padding
from receptance.models.layers import Half, LayerNorm, MixingNorm, last_token, orthogonal


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes of a model, read from its checkpoint; each generation adds its own."""

    generation: ClassVar[str]
    operator: ClassVar[str]  # the kernel that it remembers by

    vocabulary_size: int
    num_layers: int
    hidden_size: int

    def __post_init__(self) -> None:
        """Refuse sizes that no model can have."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"{field.name} is {value}, but it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class State:
    """All that a model remembers of a batch of texts: named tensors, each `[layer, batch, ...]`.

    The first two fields are the inputs that the two halves of a layer saw last; the others are its memory.
    """

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return a state with the function applied to each of its tensors."""
        return replace(self, **{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, without copying them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def after(self, layers: Sequence[tuple[Tensor, ...]]) -> Self:
        """Return the next state, made of what each layer handed back in the order of the fields."""
        columns = zip(self.tensors(), zip(*layers, strict=True), strict=True)
        return type(self)(**{name: torch.stack(column) for name, column in columns})

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


class Block(nn.Module):
    """One layer: time mixing, then channel mixing, each on a normalised copy of the residual stream.

    A generation gives the two mixings as `att` and `ffn`. Each says by `shares()` how it mixes a token with
    the one before, and is given a tuple: the normalised tokens, and those mixes of them. The first block also
    normalises the embedding.
    """

    att: Half
    ffn: Half
    dropout = 0.0  # see LanguageModel.drop

    def __init__(self, channel: int, layer: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = LayerNorm(channel, eps=epsilon)
        self.ln1 = MixingNorm(channel, eps=epsilon)
        self.ln2 = MixingNorm(channel, eps=epsilon)

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...], lengths: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the residual stream after the layer, and the layer's state in the order of its fields."""
        time_shift, channel_shift, *memory = state
        seen = self.ln1(x, time_shift, self.att.shares())
        change, memory = self.att(seen, *memory, lengths)
        x = self.dropped(x + change)
        seen_by_channels = self.ln2(x, channel_shift, self.ffn.shares())
        x = self.dropped(x + self.ffn(seen_by_channels))
        time_shift = last_token(seen[0], time_shift, lengths)
        return x, (time_shift, last_token(seen_by_channels[0], channel_shift, lengths), *memory)

    def dropped(self, x: Tensor) -> Tensor:
        """Return the residual stream with dropout, in training alone."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def initialise(self, layer: int, num_layers: int, generator: torch.Generator | None) -> None:
        """Fill the layer with its starting values; it then adds exactly nothing."""
        raise NotImplementedError


class LanguageModel(nn.Module, Generic[ConfigT, StateT]):
    """A language model of any generation: embedding, blocks, norm, head.

    A subclass gives its blocks and `initial_state`; what follows from them stands here.
    """

    # Vectors that are stored `[head, size]`, by the last part of their names.
    vectors_by_head: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: ConfigT, blocks: Iterable[Block]) -> None:
        super().__init__()
        self.config = config
        # Made from an empty table, because drawing one on the meta device makes torch import its compiler.
        table = torch.empty(config.vocabulary_size, config.hidden_size)
        self.emb = nn.Embedding(config.vocabulary_size, config.hidden_size, _weight=table)
        self.blocks = nn.ModuleList(blocks)
        self.ln_out = LayerNorm(config.hidden_size, eps=1e-5)
        self.head = nn.Linear(config.hidden_size, config.vocabulary_size, bias=False)
        if self.device.type != "meta":
            self.initialise()

    @property
    def layers(self) -> tuple[Block, ...]:
        """The blocks, from the first to the last."""
        return cast("tuple[Block, ...]", tuple(self.blocks))

    def initial_state(self, batch: int) -> StateT:
        """Return the state before the first token, on the model's device."""
        raise NotImplementedError

    def features(
        self,
        tokens: Int[Tensor, "batch time"],
        state: StateT | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch time channel"], StateT]:
        """Read a span of tokens and return what the head sees: the last layer norm's output.

        Everything but that is as in `forward`.
        """
        batch, time = tokens.shape
        if lengths is not None:
            check_lengths(lengths, batch, time)
            lengths = lengths.to(tokens.device, torch.int64)
        if state is None:
            state = self.initial_state(batch)
        first = self.layers[0]
        x, state = self.through_blocks(first.ln0(first.dropped(self.emb(tokens))), state, lengths)
        x = self.ln_out(x)
        return x if lengths is None else x.masked_fill(is_padding(lengths, time)[..., None], 0.0), state

    def loss(
        self,
        tokens: Int[Tensor, "batch time"],
        targets: Int[Tensor, "batch time"] | None,
        state: StateT | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        *,
        max_logit_weight: float = 0.0,
        z_loss_weight: float = 0.0,
    ) -> tuple[Tensor, Tensor, Float[Tensor, "batch time channel"], StateT]:
        """Read a span of tokens, and return how well their targets were known.

        Those are the loss to differentiate and the nats per token alone, as `kernels.linear_cross_entropy`
        gives them, so that the logits of a whole batch never exist in float32; without targets both are 0.
        Then come the features, and the state after the tokens. Everything else is as in `forward`.
        """
        hidden, state = self.features(tokens, state, lengths)
        loss = nats = hidden.new_zeros(())
        if targets is not None:
            penalties = max_logit_weight, z_loss_weight
            loss, nats = kernels.linear_cross_entropy(hidden, self.head.weight, targets, *penalties)
        return loss, nats, hidden, state

    def drop(self, share: float) -> Self:
        """Have training zero this share of the embedding, and of the residual stream after half a layer each.

        Those are the places where RWKV-LM drops out. The masks come from torch's global generator.
        """
        for block in self.layers:
            block.dropout = share
        return self

    def through_blocks(
        self, x: Float[Tensor, "batch time channel"], state: StateT, lengths: Int[Tensor, " batch"] | None
    ) -> tuple[Float[Tensor, "batch time channel"], StateT]:
        """Return the residual stream after all layers, and the state after them."""
        ends = []
        for block, *start in zip(self.layers, *state.tensors().values(), strict=True):
            x, end = block(x, tuple(start), lengths)
            ends.append(end)
        return x, state.after(ends)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None, embedding_scale: float = 1e-4) -> None:
        """Fill every parameter with its starting value for training from scratch, in place.

        Every block starts by adding exactly nothing, so the loss of the first step is ln V + 0.125. The
        embedding is uniform in +-`embedding_scale`, as the RWKV-4 paper has it (appendix E).
        """
        self.emb.weight.uniform_(-embedding_scale, embedding_scale, generator=generator)
        orthogonal(self.head.weight, 0.5, generator)
        for norm in (module for module in self.modules() if isinstance(module, LayerNorm)):
            norm.reset_parameters()
        for layer, block in enumerate(self.layers):
            block.initialise(layer, self.config.num_layers, generator)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        state: StateT | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch time vocabulary"], StateT]:
        """Read a span of tokens. The same call trains, prefills and decodes (time = 1).

        Without a state the text begins here. Any split of a text into spans gives the same logits and the
        same final state. `logits[:, t]` scores the token that follows `tokens[:, t]`.

        With lengths, only the first `lengths[b]` tokens of row b are read, 0 to all of them; what follows may
        be any ids. The logits of each row, the state after it and the gradients are those of the row alone.
        At the padding the logits are zero, and no gradient comes from there.

        Raises ConfigError when lengths are not integers `[batch]` from 0 to time; their values are not looked
        at on a GPU, which would have to wait for that, nor in a compiled graph.
        """
        hidden, state = self.features(tokens, state, lengths)
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
        for name, parameter in self.named_parameters():
            if self.is_matrix(name, parameter.shape):
                parameter.data = parameter.data.to(dtype)
        return self

    @classmethod
    def is_matrix(cls, name: str, shape: Sequence[int]) -> bool:
        """Say whether a parameter is a matrix, which may be in 16 bits, or a vector, in float32."""
        return len(shape) >= 2 and name.rpartition(".")[2] not in cls.vectors_by_head


AnyModel = LanguageModel[Any, Any]
