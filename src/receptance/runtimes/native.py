"""The native runtime: weights packed once, and a whole network evaluated in one call of the native library.

It computes what the torch module computes, on the CPU. Activations and the state are float32 whatever the
weights are; with int8 and int4 weights, what meets a matrix is rounded to int8, 32 values a scale.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from receptance import native
from receptance.checkpoints.fingerprint import fingerprint_of
from receptance.checkpoints.packed_weights import Formats, own_formats, packed
from receptance.checkpoints.stored_model import StoredModel, from_module
from receptance.errors import ConfigError, KernelError
from receptance.kernels.lengths import check_lengths
from receptance.models import (
    AnyModel,
    HeadsConfig,
    HeadsState,
    LanguageModel,
    RWKV4Config,
    RWKV4State,
    State,
)
from receptance.models.rwkv4 import EMPTY_EXPONENT
from receptance.quantization.arena import Arena
from receptance.quantization.packed import FORMATS, PANEL_ROWS, Format, PackedMatrix, packed_bytes
from receptance.runtimes.network import Evaluation, Network, States
from receptance.runtimes.packing import pack
from receptance.runtimes.recycled import RecycledMemory


class NativeModel:
    """A model of any generation in the native runtime; made by `pack`.

    `model(tokens, state, lengths)` means what it means for the torch module, and states of either serve the
    other. Nothing here records gradients. Several threads may call one model.
    """

    dtype = torch.float32  # of the logits and the state
    device = torch.device("cpu")

    def __init__(self, model: StoredModel, *, threads: int | None = None) -> None:
        """Evaluate a packed model (`packed_weights`), whose matrices stay where they are, such as in a file.

        Their numbers are not looked at before they are used; those that are not finite give such logits.
        """
        _library()
        config: Any = model.config  # Any: that of its generation
        self.config: RWKV4Config | HeadsConfig = config
        self.format = model.number_format
        self.threads = threads or torch.get_num_threads()
        self._state_type, self._state_sizes = _state_of(config)
        self._packed = pack(model)
        self._free_scratch: list[Tensor] = []
        self._states = RecycledMemory()

    @classmethod
    def pack(
        cls, model: AnyModel | StoredModel, formats: Formats | None = None, *, threads: int | None = None
    ) -> NativeModel:
        """Pack a model, one weight at a time; what is packed already is used where it is.

        model    a torch module, or a model in a file
        formats  number format of the matrices: float32, bfloat16, int8 or int4 for all, or one for each name
                 (see `packed_weights.packed`); None keeps those that they are in
        threads  that a call may use; None: as many as torch

        Raises KernelError without the native library, ConfigError for a format that is unknown or none of
        the runtime's, CheckpointError when a weight cannot be read.
        """
        if isinstance(model, LanguageModel):
            if model.device.type == "meta":
                raise ConfigError(
                    "the model has no weights (it is on the meta device), so there is nothing to pack"
                )
            model = from_module(model)
        arena = Arena()

        def rounding(name: str, matrix: Tensor, matrix_format: Format) -> PackedMatrix:
            return PackedMatrix.pack(matrix.cpu(), matrix_format, arena)

        return cls(packed(model, formats or own_formats(model), rounding), threads=threads)

    def initial_state(self, batch: int) -> State:
        """Return the state before the first token."""
        state = self._new_state(batch).map(torch.zero_)
        if isinstance(state, RWKV4State):
            state.exponent.fill_(EMPTY_EXPONENT)
        return state

    @property
    def num_bytes(self) -> int:
        """Memory that the weights take."""
        return sum(tensor.nbytes for tensor in self._packed.tensors)

    @cached_property
    def fingerprint(self) -> str:
        """Which model this is in which formats; see `checkpoints.fingerprint`."""
        tensors = enumerate(self._packed.tensors)
        return fingerprint_of(self.config, {f"{self.format} {index:06}": tensor for index, tensor in tensors})

    @property
    def bytes_per_token(self) -> int:
        """Memory that is read to write one token: the weights, but of the embedding one panel."""
        embedding = self._packed.network.embedding
        whole, panel = (
            packed_bytes(FORMATS[embedding.format], rows, embedding.columns)
            for rows in (embedding.rows, PANEL_ROWS)
        )
        return self.num_bytes - whole + panel

    def __call__(
        self,
        tokens: Int[Tensor, "batch time"],
        state: State | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        *,
        last_only: bool = False,
    ) -> tuple[Float[Tensor, "batch time vocabulary"], State]:
        """Read a span of tokens; `logits[:, t]` scores the token that follows `tokens[:, t]`.

        Without a state the text begins here; one that is handed in is not changed. With lengths, only the
        first `lengths[b]` tokens of row b are read; the logits at what follows are zero. With `last_only`
        there are the logits of the last token of each row alone, `[batch, 1, vocabulary]`. The memory that it
        takes does not grow with the span, but for the logits.

        Raises ConfigError when tokens are not integers `[batch, time]` of ids of the model, the state is not
        one of this model and batch, or lengths are not integers `[batch]` from 0 to time.
        """
        before = self._before(tokens, state)
        tokens = tokens.to("cpu", torch.int64).contiguous()
        if lengths is None:
            return self._read(tokens, before, last_only)
        check_lengths(lengths, *tokens.shape)
        return self._read_rows(tokens, before, lengths.to("cpu", torch.int64), last_only)

    def steps(
        self, tokens: Int[Tensor, "batch time"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], list[State]]:
        """Read a short span as if token by token; return the logits, and the state after each token.

        All are to the bit what each text alone gives, a call for each token. But the weights are read once,
        so that a few tokens take little longer than one. Tokens, state and errors are as in a call.
        """
        before = self._before(tokens, state)
        tokens = tokens.to("cpu", torch.int64).contiguous()
        batch, time = tokens.shape
        logits = torch.empty(batch, time, self.config.vocabulary_size)
        after = [self._new_state(batch) for _ in range(time)]
        self._evaluate(tokens, before, logits, after, stepwise=True)
        return logits, after

    def _before(self, tokens: Tensor, state: State | None) -> State:
        """Return the state before the tokens, when both fit."""
        if tokens.ndim != 2 or tokens.is_floating_point() or not tokens.numel():
            raise ConfigError(
                f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, but they must be integers of "
                "shape [batch, time], both at least 1"
            )
        batch = len(tokens)
        return self.initial_state(batch) if state is None else self._checked(state, batch)

    def _read_rows(
        self, tokens: Tensor, before: State, lengths: Tensor, last_only: bool
    ) -> tuple[Tensor, State]:
        """Read all rows up to the end of the shortest, then those that go on up to the next end."""
        batch, time = tokens.shape
        logits = torch.zeros(batch, 1 if last_only else time, self.config.vocabulary_size)
        after = before.detach().clone()
        begin = 0
        for end in torch.unique(lengths[lengths > 0]).tolist():
            rows = (lengths > begin).nonzero().flatten()
            start = after.map(partial(torch.index_select, dim=1, index=rows))
            scores, ends = self._read(tokens[rows, begin:end].contiguous(), start, last_only)
            if last_only:
                logits[rows] = scores
            else:
                logits[rows, begin:end] = scores
            for name, tensor in after.tensors().items():
                tensor[:, rows] = ends.tensors()[name]
            begin = end
        return logits, after

    def _read(self, tokens: Tensor, before: State, last_only: bool) -> tuple[Tensor, State]:
        batch, time = tokens.shape
        logits = torch.empty(batch, 1 if last_only else time, self.config.vocabulary_size)
        after = self._new_state(batch)
        self._evaluate(tokens, before, logits, [after], last_only=last_only)
        return logits, after

    def _evaluate(
        self, tokens: Tensor, before: State, logits: Tensor, after: Sequence[State], **how: bool
    ) -> None:
        batch, time = tokens.shape
        call = Evaluation(
            tokens=tokens.data_ptr(),
            before=_pointers(before),
            after=(States * len(after))(*map(_pointers, after)),
            logits=logits.data_ptr(),
            batch=batch,
            time=time,
            **how,
        )
        library = _library()
        network, evaluation = ctypes.byref(self._packed.network), ctypes.byref(call)
        size = library.receptance_scratch_bytes(network, evaluation, self.threads)
        # Taken from the list and put back, so that threads that call at once have one each.
        scratch = self._free_scratch.pop() if self._free_scratch else torch.empty(0, dtype=torch.uint8)
        if len(scratch) < size:
            scratch = torch.empty(size, dtype=torch.uint8)
        call.scratch = scratch.data_ptr()
        stranger = library.receptance_evaluate(network, evaluation, self.threads)
        self._free_scratch.append(scratch)
        if stranger >= 0:
            raise ConfigError(
                f"token {int(tokens.view(-1)[stranger])} is unknown to the model, whose ids go from 0 to "
                f"{self.config.vocabulary_size - 1}"
            )

    def _new_state(self, batch: int) -> State:
        """Return a state whose values are still to be written."""
        layers = self.config.num_layers
        return self._state_type(
            **{name: self._states.take(layers, batch, *size) for name, size in self._state_sizes.items()}
        )

    def _checked(self, state: State, batch: int) -> State:
        """Return the state as float32 on the CPU; raise ConfigError when it does not fit."""
        layers, given = self.config.num_layers, state.tensors()
        needed = {name: (layers, batch, *size) for name, size in self._state_sizes.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
        if shapes != needed:
            raise ConfigError(f"the state has {shapes}, but this model and {batch} texts need {needed}")
        return self._state_type(
            **{name: tensor.to("cpu", torch.float32).contiguous() for name, tensor in given.items()}
        )


def _state_of(config: RWKV4Config | HeadsConfig) -> tuple[type[State], dict[str, tuple[int, ...]]]:
    """Return the type of a model's state, and the sizes of its tensors for one layer and text."""
    shifts: dict[str, tuple[int, ...]] = dict.fromkeys(("time_shift", "channel_shift"), (config.hidden_size,))
    if isinstance(config, RWKV4Config):
        sums = dict.fromkeys(("numerator", "denominator", "exponent"), (config.attention_size,))
        return RWKV4State, shifts | sums
    return HeadsState, shifts | {"wkv": (config.num_heads, config.head_size, config.head_size)}


def _pointers(state: State) -> States:
    time_shift, channel_shift, *memory = (tensor.data_ptr() for tensor in state.tensors().values())
    return States(time_shift=time_shift, channel_shift=channel_shift, memory=(ctypes.c_void_p * 3)(*memory))


_Memory = ctypes.c_void_p * 3


@cache
def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    arguments = [ctypes.POINTER(Network), ctypes.POINTER(Evaluation), ctypes.c_int]
    for name in ("receptance_evaluate", "receptance_scratch_bytes"):
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int64
    return library
