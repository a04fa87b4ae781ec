"""Matrices of a whole model, rounded one after the other for the inputs that a text gives them.

Two copies of the text go through the network layer by layer: one as the full model reads it, one as it comes
out of the layers that are rounded already. Their inputs tell each matrix what it has to make up for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from receptance.errors import ConfigError
from receptance.models import RWKV7, AnyModel, State
from receptance.models.interface import Block
from receptance.quantization.compensated import Moments, compensated
from receptance.quantization.packed import Format, PackedMatrix

Report = Callable[[str, int, int], None]

# The matrices of a layer in groups: what one is given depends on those of the groups before.
_STAGES = (
    ("att.receptance", "att.key", "att.value", "att.gate"),
    ("att.output",),
    ("ffn.receptance", "ffn.key"),
    ("ffn.value",),
)
_TOKENS_AT_ONCE = 2048  # bounds the memory of a layer's activations


@torch.no_grad()
def pack_for_text(
    model: AnyModel,
    tokens: Int[Tensor, "window time"],
    formats: Mapping[str, Format],
    *,
    state: State | None = None,
    report: Report = lambda stage, done, total: None,
) -> dict[str, PackedMatrix]:
    """Return the wide matrices by name, each rounded to its format so that the model reads this text alike.

    formats  of all wide matrices, by names such as "blocks.0.att.key.weight" and "head.weight"
    state    what the model remembers before each window, a batch of one; None: nothing
    report   is called with how many matrices are done

    int8 and int4 are rounded by `compensated`. The model is not changed; beside it there are the packed
    matrices, a float32 copy of one layer, its moments, and two float32 vectors a token.

    Raises ConfigError where a matrix has no format, or is given what is not finite.
    """
    texts = [
        _Text.begin(model, part, state)
        for part in torch.split(tokens, max(1, _TOKENS_AT_ONCE // tokens.shape[1]))
    ]
    packed: dict[str, PackedMatrix] = {}

    def round_all(linears: Mapping[str, nn.Linear], moments: Mapping[str, Moments]) -> None:
        for name, linear in linears.items():
            packed[name] = _rounded(name, linear.weight, formats, moments[name])
            linear.weight.data = packed[name].dequantize()
            report("rounding", len(packed), len(formats))

    for index, block in enumerate(model.layers):
        exact, rounded = copy.deepcopy(block).float(), copy.deepcopy(block).float()
        for stage in _STAGES:
            exact_linears, linears = (_linears(part, index, stage) for part in (exact, rounded))
            moments = {name: _MomentsSoFar() for name in linears}
            for text in texts:
                with _inputs(exact_linears) as x, _inputs(linears) as z:
                    text.through(exact, index, text.exact)
                    text.through(rounded, index, text.rounded)
                for name, so_far in moments.items():
                    so_far.add(x[name], z[name])
            round_all(linears, {name: so_far.mean() for name, so_far in moments.items()})
        for text in texts:
            text.exact = text.through(exact, index, text.exact)
            text.rounded = text.through(rounded, index, text.rounded)
    last = _MomentsSoFar()
    for text in texts:
        last.add(*(model.ln_out(stream.x) for stream in (text.exact, text.rounded)))
    packed["head.weight"] = _rounded("head.weight", model.head.weight, formats, last.mean())
    report("rounding", len(packed), len(formats))
    return packed


def _rounded(name: str, matrix: Tensor, formats: Mapping[str, Format], moments: Moments) -> PackedMatrix:
    matrix_format = formats.get(name)
    if matrix_format is None:
        raise ConfigError(f"{name!r} has no format: every wide matrix needs one.")
    if matrix_format != "int8" and matrix_format != "int4":
        return PackedMatrix.pack(matrix, matrix_format)
    try:
        return compensated(matrix, matrix_format, moments)
    except ConfigError as error:
        raise ConfigError(f"{name!r}: {error}") from error


@dataclass(frozen=True)
class _Stream:
    """What goes from layer to layer: the residual stream, and what RWKV-7's first layer hands on beside."""

    x: Tensor
    beside: tuple[Tensor | None, ...]


@dataclass
class _Text:
    """Some windows of the text on their way through the full and the rounded network."""

    state: State
    exact: _Stream
    rounded: _Stream

    @classmethod
    def begin(cls, model: AnyModel, tokens: Tensor, state: State | None) -> _Text:
        start = model.initial_state(1) if state is None else state
        x = model.layers[0].ln0(model.emb(tokens.to(model.device)).float())
        stream = _Stream(x, (None,) if isinstance(model, RWKV7) else ())
        return cls(start.map(lambda part: part.float().repeat_interleave(len(tokens), dim=1)), stream, stream)

    def through(self, block: Block, index: int, stream: _Stream) -> _Stream:
        state = tuple(part[index] for part in self.state.tensors().values())
        x, _, *beside = block(stream.x, state, None, *stream.beside)
        return _Stream(x, tuple(beside))


class _MomentsSoFar:
    """Sums over tokens."""

    def __init__(self) -> None:
        self._inputs: Tensor | float = 0.0
        self._cross: Tensor | float = 0.0
        self._tokens = 0

    def add(self, exact: Tensor, rounded: Tensor) -> None:
        exact, rounded = exact.flatten(0, 1), rounded.flatten(0, 1)
        self._inputs = self._inputs + rounded.T @ rounded
        self._cross = self._cross + exact.T @ rounded
        self._tokens += len(exact)

    def mean(self) -> Moments:
        inputs, cross = (torch.as_tensor(total) / self._tokens for total in (self._inputs, self._cross))
        return Moments(inputs.cpu(), cross.cpu())


def _linears(block: Block, index: int, names: Sequence[str]) -> dict[str, nn.Linear]:
    """Return those of a layer's matrices that it has, by their whole names."""
    found = {name: part for name, part in block.named_modules() if isinstance(part, nn.Linear)}
    return {f"blocks.{index}.{name}.weight": found[name] for name in names if name in found}


@contextmanager
def _inputs(linears: Mapping[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Keep what the matrices are given, by name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda module, arguments: seen.__setitem__(name, arguments[0])

    handles = [linear.register_forward_pre_hook(keep(name)) for name, linear in linears.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
