"""Models whose matrices are packed: in the order and the formats in which the native runtime reads them.

What multiplies is packed as `[output, input]`. The wide matrices (`att.key.weight`, `head.weight`, …) are
stored like that. The thin ones, of low rank, are stored `[input, output]`, so they are packed transposed; one
weight of RWKV-6 is a stack of five. The embedding, of which a token takes one row, is packed by these rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from receptance.checkpoints.contents import Packed, Weight
from receptance.checkpoints.names import is_wide
from receptance.checkpoints.stored_model import StoredModel, cast_weight
from receptance.errors import CheckpointError, ConfigError
from receptance.quantization.packed import FORMATS, Format, PackedMatrix, packed_bytes

Formats = Format | Mapping[str, Format]
Rounding = Callable[[str, Float[Tensor, "row column"], Format], PackedMatrix]

_ALIGNMENT = 64  # of each matrix in a file


def nearest(name: str, matrix: Float[Tensor, "row column"], matrix_format: Format) -> PackedMatrix:
    """Round a matrix to the nearest numbers of the format, whatever it is called."""
    return PackedMatrix.pack(matrix, matrix_format)


def packed(model: StoredModel, formats: Formats, rounding: Rounding = nearest) -> StoredModel:
    """Return the model with its matrices packed, each of them whenever it is read.

    formats   number format of the wide matrices: one for all, or of each by its name, as in `model.formats`
    rounding  makes of a name, a matrix `[output, input]` and a format the packed matrix in that format; a
              writer asks for one matrix after the other, in the order of the model, and keeps none

    Thin matrices, a small part of what a token reads, are in bfloat16, or in float32 where all wide ones are.
    So is the embedding, but in int8 where all wide ones are in integers: of a small model it is the largest
    weight. Vectors are in float32. What is packed in its format already stays as it is.

    Raises ConfigError for an unknown format, for a wide matrix without one and for a name that is none; and
    whoever reads a weight meets what `PackedMatrix.pack` raises, with the name of the weight.
    """
    chosen = _chosen(model, formats)
    rest: Format = "float32" if set(chosen.values()) == {"float32"} else "bfloat16"
    chosen["emb.weight"] = "int8" if {*chosen.values()} <= {"int8", "int4"} else rest

    def converted(name: str, weight: Weight) -> Weight:
        place = f"{model.path}: {model.name_in_file(name)!r}"
        if not model.is_matrix(name):
            return cast_weight(weight, torch.float32, place)
        matrix_format = chosen.get(name, rest)
        if weight.packed is not None and weight.packed.format == matrix_format:
            return weight
        narrowed = torch.bfloat16 if matrix_format == "bfloat16" else torch.float32
        if torch.finfo(weight.dtype).max > torch.finfo(narrowed).max:
            weight = cast_weight(weight, narrowed, place)
        return _packed_weight(name, weight, matrix_format, rounding)

    return replace(model, weights={name: converted(name, weight) for name, weight in model.weights.items()})


def bytes_in_memory(model: StoredModel) -> int:
    """Return what the weights take: of a packed model as they lie there, of others as modules have them."""
    is_packed = any(weight.packed for weight in model.weights.values())
    ready = model if is_packed else model.cast(model.dtype)
    return sum(
        (as_bytes(name, weight) if weight.packed else weight).num_bytes
        for name, weight in ready.weights.items()
    )


def as_bytes(name: str, weight: Weight) -> Weight:
    """Return a packed weight as a file has it: one matrix after the other, each at a multiple of 64 bytes."""
    if weight.packed is None:
        raise ConfigError(f"{name!r} is of {weight.dtype}, but a packed weight is needed.")
    read = weight.packed.read
    count, rows, columns = _sizes(name, weight.shape)
    num_bytes = packed_bytes(weight.packed.format, rows, columns)
    filling = -num_bytes % _ALIGNMENT

    def whole() -> Tensor:
        parts = [torch.nn.functional.pad(matrix.data, (0, filling)) for matrix in read()]
        return parts[0] if count == 1 else torch.cat(parts)

    return Weight((count * (num_bytes + filling),), torch.uint8, whole)


def from_bytes(
    place: str, name: str, shape: tuple[int, ...], matrix_format: Format, data: UInt8[Tensor, " bytes"]
) -> Weight:
    """Return the weight of which `as_bytes` made the data, without copying them where they lie well.

    Raises CheckpointError where the data have another length. The numbers themselves are not looked at.
    """
    if len(shape) not in ((2,) if _is_by_rows(name) else (2, 3)):
        raise CheckpointError(f"{place} is packed and has the shape {shape}, which is none of a matrix.")
    count, rows, columns = _sizes(name, shape)
    num_bytes = packed_bytes(matrix_format, rows, columns)
    stride = num_bytes + -num_bytes % _ALIGNMENT
    if count * stride != data.nbytes:
        raise CheckpointError(
            f"{place} of shape {shape} in {matrix_format} needs {count * stride:,} bytes, but it has "
            f"{data.nbytes:,}."
        )

    def read() -> tuple[PackedMatrix, ...]:
        aligned = data if data.data_ptr() % _ALIGNMENT == 0 else data.clone()
        parts = (aligned[begin : begin + num_bytes] for begin in range(0, count * stride, stride))
        return tuple(PackedMatrix(part, matrix_format, rows, columns) for part in parts)

    return _weight(name, shape, Packed(matrix_format, read))


def own_formats(model: StoredModel) -> dict[str, Format]:
    """Return the formats of the wide matrices in which every number stays what it is.

    Raises ConfigError where the numbers are in 64 bits, or in float16, which the native runtime has not.
    """
    plain: dict[torch.dtype, Format] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
    formats: dict[str, Format] = {}
    for name, own in model.formats.items():
        if isinstance(own, torch.dtype) and own not in plain:
            raise ConfigError(
                f"{model.path}: the native runtime has no {str(own).removeprefix('torch.')}, which "
                f"{model.name_in_file(name)!r} is in: give a dtype of float32, bfloat16, int8 or int4."
            )
        formats[name] = plain[own] if isinstance(own, torch.dtype) else own
    return formats


def _chosen(model: StoredModel, formats: Formats) -> dict[str, Format]:
    """Return the format of each wide matrix, if there is a known one of each."""
    names = tuple(model.formats)
    chosen = dict.fromkeys(names, formats) if isinstance(formats, str) else dict(formats)
    for problem, some in (
        ("needs a format", [name for name in names if name not in chosen]),
        ("is no matrix whose format can be chosen", [name for name in chosen if name not in names]),
    ):
        if some:
            raise ConfigError(f"{model.path}: {some[0]!r} {problem}; those are {names[0]!r} … {names[-1]!r}.")
    for name, matrix_format in chosen.items():
        if matrix_format not in FORMATS:
            known = ", ".join(FORMATS)
            raise ConfigError(f"{model.path}: {name!r}: format {matrix_format!r} is unknown; known: {known}.")
    return chosen


def _packed_weight(name: str, weight: Weight, matrix_format: Format, rounding: Rounding) -> Weight:
    def read() -> tuple[PackedMatrix, ...]:
        tensor = weight.read()
        parts = (tensor,) if _is_by_rows(name) else tensor.reshape(-1, *tensor.shape[-2:]).mT
        return tuple(rounding(name, part, matrix_format) for part in parts)

    return _weight(name, weight.shape, Packed(matrix_format, read))


def _weight(name: str, shape: tuple[int, ...], numbers: Packed) -> Weight:
    """Return a packed weight that is dequantised where its numbers are read one by one."""
    dtype = torch.bfloat16 if numbers.format == "bfloat16" else torch.float32

    def read() -> Tensor:
        parts = [matrix.dequantize() for matrix in numbers.read()]
        whole = parts[0] if _is_by_rows(name) else torch.stack([part.T for part in parts])
        return whole.reshape(shape).to(dtype)

    return Weight(shape, dtype, read, numbers)


def _sizes(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return how many matrices are packed for a weight, and their rows and columns."""
    *stack, first, second = shape
    return math.prod(stack), *((first, second) if _is_by_rows(name) else (second, first))


def _is_by_rows(name: str) -> bool:
    """Say whether a matrix is packed as it is stored, not transposed."""
    return is_wide(name) or name == "emb.weight"
