"""The block formats of ggml: rows of numbers, cut into blocks that share a scale (and an offset).

Names are ggml's. A block format says nothing of the number that files give it: GGUF and rwkv.cpp differ.

    d scale   m offset   q the integers: `value = d * q`, `d * q + m`, and `d * q - m` in the K formats
    low the lower four bits of the integers, two in a byte   high the bits above these

In the K formats d and m are scales too: of the small integers that each part of a block has as its own.

The layouts are those of github.com/ggml-org/ggml, `src/ggml-common.h`, little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from receptance.errors import ConfigError

Blocks = npt.NDArray[np.void]  # [block] of a layout below
Bytes = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]

_PIECE = 1 << 13  # blocks that are decoded at a time, to stay in the processor's cache


@dataclass(frozen=True)
class BlockFormat:
    """How `block_size` numbers, side by side in a row, lie in a block of bytes."""

    name: str
    block_size: int
    layout: np.dtype[np.void]
    decode: Callable[[Blocks], Values]  # [block] to [block, block_size]

    @property
    def bytes_per_block(self) -> int:
        """Size of a block in the file."""
        return self.layout.itemsize

    def num_bytes(self, shape: Sequence[int]) -> int:
        """Return how many bytes a tensor takes; ValueError where its rows are not whole blocks."""
        if not shape or shape[-1] % self.block_size:
            row = shape[-1] if shape else 1
            raise ValueError(f"{self.name} has blocks of {self.block_size} values, and a row has {row:,}")
        return math.prod(shape) // self.block_size * self.bytes_per_block

    def dequantise(self, data: bytes | memoryview | Bytes, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Return the tensor of a shape in float32, from its bytes.

        Raises ValueError where the rows are not whole blocks, or there are not `num_bytes(shape)` bytes.
        """
        blocks: Blocks = np.frombuffer(data, dtype=np.uint8)
        if blocks.nbytes != self.num_bytes(shape):
            raise ValueError(
                f"{tuple(shape)} in {self.name} needs {self.num_bytes(shape):,} bytes, not {blocks.nbytes:,}"
            )
        blocks = blocks.view(self.layout)
        values = np.empty((len(blocks), self.block_size), dtype=np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # who reads weights checks that they are finite
            for begin in range(0, len(blocks), _PIECE):
                values[begin : begin + _PIECE] = self.decode(blocks[begin : begin + _PIECE])
        return torch.from_numpy(values.reshape(tuple(shape)))

    def quantise(self, values: Float[Tensor, "..."]) -> Iterator[memoryview]:
        """Yield the bytes of a tensor whose rows are whole blocks, piece by piece, rounded as ggml does.

        Its own package does it. Raises ConfigError where that is not installed or knows only to read, or a
        value is too large for a scale in float16.
        """
        try:
            from gguf import GGMLQuantizationType, quants
        except ImportError as error:
            raise ConfigError(
                f"writing {self.name} needs the package 'gguf'. Install it: pip install 'receptance[gguf]'"
            ) from error
        largest = max(abs(float(bound)) for bound in torch.aminmax(values))
        if largest > torch.finfo(torch.float16).max:
            raise ConfigError(
                f"a weight holds values up to {largest:.4g}, too large for the float16 scales of {self.name}."
            )
        for piece in torch.split(values.reshape(-1), _PIECE * self.block_size):
            row = piece.float().unsqueeze(0).numpy()  # one long row: the package works on 16 rows at a time
            try:
                with np.errstate(all="ignore"):  # of blocks so small that their scale is zero
                    rounded: Bytes = quants.quantize(row, GGMLQuantizationType[self.name])
            except NotImplementedError as error:
                raise ConfigError(f"the package 'gguf' cannot write {self.name}.") from error
            yield rounded.data


def _layout(*fields: tuple[Any, ...]) -> np.dtype[np.void]:  # Any: numpy's own descriptions of fields
    return np.dtype(list(fields))


def _scale(numbers: npt.NDArray[Any]) -> Values:
    """Return one number a block as a column of float32."""
    return numbers.astype(np.float32)[..., None]


def _halves(packed: Bytes) -> Bytes:
    """Return the integers of four bits: of all bytes the lower halves, then the upper ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fifth_bits(blocks: Blocks) -> Bytes:
    """Return bit i of the block's 32 as the fifth bit of integer i."""
    return np.unpackbits(blocks["high"], axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Blocks) -> Values:
    return _scale(blocks["d"]) * (_halves(blocks["low"]).astype(np.float32) - 8)


def _q4_1(blocks: Blocks) -> Values:
    return _scale(blocks["d"]) * _halves(blocks["low"]).astype(np.float32) + _scale(blocks["m"])


def _q5_0(blocks: Blocks) -> Values:
    q = _halves(blocks["low"]) | _fifth_bits(blocks)
    return _scale(blocks["d"]) * (q.astype(np.float32) - 16)


def _q5_1(blocks: Blocks) -> Values:
    q = _halves(blocks["low"]) | _fifth_bits(blocks)
    return _scale(blocks["d"]) * q.astype(np.float32) + _scale(blocks["m"])


def _q8_0(blocks: Blocks) -> Values:
    return _scale(blocks["d"]) * blocks["q"].astype(np.float32)


def _subscales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the scales and the offsets of a block's eight parts, six bits each, from their twelve bytes."""
    one, two, rest = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([one & 63, (rest & 15) | (one >> 6 << 4)], axis=-1)
    offsets = np.concatenate([two & 63, (rest >> 4) | (two >> 6 << 4)], axis=-1)
    return scales, offsets


def _in_eight_parts(blocks: Blocks, q: Bytes) -> Values:
    """Return the values of integers `[block, part, 32]`, each part with a scale and an offset of its own."""
    scales, offsets = _subscales(blocks["scales"])
    d = _scale(blocks["d"]) * scales.astype(np.float32)
    m = _scale(blocks["m"]) * offsets.astype(np.float32)
    return (d[..., None] * q.astype(np.float32) - m[..., None]).reshape(len(blocks), 256)


def _q4_k(blocks: Blocks) -> Values:
    q = _halves(blocks["low"].reshape(-1, 4, 32))
    return _in_eight_parts(blocks, q.reshape(-1, 8, 32))


def _q5_k(blocks: Blocks) -> Values:
    q = _halves(blocks["low"].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    part = np.arange(8, dtype=np.uint8)[:, None]
    high = (blocks["high"][:, None, :] >> part) & np.uint8(1)  # bit i of a byte belongs to part i
    return _in_eight_parts(blocks, q | (high << np.uint8(4)))


def _q6_k(blocks: Blocks) -> Values:
    low = _halves(blocks["low"].reshape(-1, 2, 64))
    shift = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (blocks["high"].reshape(-1, 2, 1, 32) >> shift) & 3
    q = (low.reshape(-1, 16, 16) | (high.reshape(-1, 16, 16) << 4)).astype(np.float32) - 32
    d = _scale(blocks["d"]) * blocks["scales"].astype(np.float32)  # one a part of sixteen
    return (d[..., None] * q).reshape(len(blocks), 256)


_D, _M = ("d", "<f2"), ("m", "<f2")

BLOCK_FORMATS = {
    entry.name: entry
    for entry in (
        BlockFormat("Q4_0", 32, _layout(_D, ("low", "u1", 16)), _q4_0),
        BlockFormat("Q4_1", 32, _layout(_D, _M, ("low", "u1", 16)), _q4_1),
        BlockFormat("Q5_0", 32, _layout(_D, ("high", "u1", 4), ("low", "u1", 16)), _q5_0),
        BlockFormat("Q5_1", 32, _layout(_D, _M, ("high", "u1", 4), ("low", "u1", 16)), _q5_1),
        BlockFormat("Q8_0", 32, _layout(_D, ("q", "i1", 32)), _q8_0),
        BlockFormat("Q4_K", 256, _layout(_D, _M, ("scales", "u1", 12), ("low", "u1", 128)), _q4_k),
        BlockFormat(
            "Q5_K", 256, _layout(_D, _M, ("scales", "u1", 12), ("high", "u1", 32), ("low", "u1", 128)), _q5_k
        ),
        BlockFormat(
            "Q6_K", 256, _layout(("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _D), _q6_k
        ),
    )
}
