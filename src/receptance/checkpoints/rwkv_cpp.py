"""Files of rwkv.cpp (`.bin`), in both directions (github.com/RWKV/rwkv.cpp, `docs/FILE_FORMAT.md`).

A file begins with six integers: magic, version, vocabulary, channels, layers, type of the large matrices. The
tensors follow, one behind the other: number of axes, length of the name, type, sizes (innermost first), name,
numbers. All of it is little-endian, and nothing is aligned.

The program stores the decays of RWKV-4 and 5, and the `time_first` of RWKV-5.0, as it uses them. They come
back through logarithms: to the bit where they had 16 bits before, or else rounded (see `_computed`). All
other values come back to the bit.

The program runs RWKV-5 with a `group_norm_epsilon` of 1e-5, where the official code has 64e-5. No file says
which; whoever wants the numbers of rwkv.cpp loads with `group_norm_epsilon=1e-5`.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from receptance import atomic
from receptance.checkpoints.contents import Contents, Weight
from receptance.checkpoints.ggml_blocks import BLOCK_FORMATS, BlockFormat
from receptance.checkpoints.layout import STACKED, TRANSPOSED, Change, Layout, Row, each, reshaped, valued
from receptance.checkpoints.names import published_shape
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import CheckpointError, ConfigError
from receptance.models import RWKV4Config, RWKV5Config, RWKV6Config

FORMAT = "rwkv.cpp"
MAGIC = b"fmgg"  # 0x67676d66, "ggmf" backwards
VERSIONS = (100, 101)
MAX_TENSORS = 1 << 15  # a thousand layers; the published models have two thousand tensors
MAX_NAME_BYTES = 255

_HEADER = struct.Struct("<4s5I")
_ENTRY = struct.Struct("<3I")

_FLOATS = {0: torch.float32, 1: torch.float16}
_BLOCKS = {
    number: BLOCK_FORMATS[name]
    for number, name in (
        *((2, "Q4_0"), (3, "Q4_1"), (7, "Q5_0"), (8, "Q5_1"), (9, "Q8_0")),
        *((13, "Q4_K"), (14, "Q5_K"), (15, "Q6_K")),
    )
}
_NUMBERS = {dtype: number for number, dtype in _FLOATS.items()}

_LOW_RANK = ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")  # of RWKV-7

# Matrices that the program leaves as they are when it quantises: they are small, or suffer much.
_UNQUANTISED = ("emb.weight", "head.weight", ".att.r_k", *(f".att.{name}" for name in _LOW_RANK))


def _computed(
    stored: Callable[[Tensor], Tensor], official: Callable[[Tensor], Tensor], lowest: float, highest: float
) -> Change:
    """Return the change of values by a function, computed in float64 and rounded to float32 once.

    What comes back, the function takes to the same float32 again. Of the numbers that it does so with, one of
    16 bits is preferred, since published models are in bfloat16 or float16. Any other x is off by at most
    (1 + |x|) / 2^23 where exp(x) is stored, by (exp(-x) + |x|) / 2^23 where exp(-exp(x)) is: 5e-5 for x = -6.
    `lowest` and `highest` are finite stand-ins for what the function took to the end of its range.
    """

    def to_foreign(values: Tensor) -> Tensor:
        return stored(values.double()).to(values.dtype)

    def to_official(values: Tensor) -> Tensor:
        exact = official(values.double()).clamp(lowest, highest)
        found = exact.to(values.dtype)
        for short in (torch.float16, torch.bfloat16):
            candidate = exact.to(short).to(values.dtype)
            found = torch.where(to_foreign(candidate) == values, candidate, found)
        return found

    return valued(to_foreign, to_official)


_MINUS_EXP = _computed(lambda x: -x.exp(), lambda y: (-y).log(), -104.0, math.inf)
_EXP = _computed(torch.exp, torch.log, -104.0, math.inf)
_EXP_MINUS_EXP = _computed(lambda x: (-x.exp()).exp(), lambda y: (-y.log()).log(), -17.5, 4.65)
_BY_HEAD = reshaped((-1, 1, 1), (-1,))
_COLUMNS = each(lambda tensor: tensor.unsqueeze(-1), lambda tensor: tensor.squeeze(-1))
# Vectors [1, 1, channel] as one [6, 1, channel].
_ROWS = STACKED.then(each(lambda tensor: tensor.squeeze(1), lambda tensor: tensor.unsqueeze(1)))


def _attention(changes: Mapping[str, Change]) -> list[Row]:
    """Return the rows of attention weights that have the same name in both, but are changed."""
    return [Row(f"blocks.{{}}.att.{name}", f"blocks.{{}}.att.{name}", how) for name, how in changes.items()]


RWKV4_LAYOUT = Layout(_attention({"time_decay": _MINUS_EXP}))
RWKV50_LAYOUT = Layout(
    _attention({"time_decay": _EXP_MINUS_EXP.then(_BY_HEAD), "time_first": _EXP.then(_BY_HEAD)})
)
RWKV52_LAYOUT = Layout(_attention({"time_decay": _EXP_MINUS_EXP.then(_COLUMNS), "time_faaaa": _COLUMNS}))
RWKV7_LAYOUT = Layout(
    [
        *_attention(dict.fromkeys(_LOW_RANK, TRANSPOSED)),
        Row(tuple(f"blocks.{{}}.att.x_{letter}" for letter in "rwkvag"), "blocks.{}.att.x_rwkvag", _ROWS),
    ]
)


def rwkv6_layout(num_heads: int) -> Layout:
    """Return the layout of RWKV-6; for reading, any number of heads will do."""
    transposed = ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")
    return Layout(
        _attention(
            {
                **dict.fromkeys(transposed, TRANSPOSED),
                "time_decay": reshaped((num_heads, -1, 1), (-1,)),
                "time_faaaa": _COLUMNS,
            }
        )
    )


def read(path: Path) -> Contents:
    """Return what a file holds, under official names; numbers that are not quantised are mapped, not copied.

    Raises CheckpointError, naming the tensor or the byte, when the file is cut off, damaged or too old.
    """
    if path.stat().st_size < _HEADER.size:
        raise CheckpointError(f"{path}: it has {path.stat().st_size} bytes, but its header {_HEADER.size}.")
    with path.open("rb") as file:
        # A later change in place copies the page: the file stays as it is.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    magic, version, vocabulary, channels, layers, number = _HEADER.unpack_from(data)
    if magic != MAGIC or version not in VERSIONS:
        raise CheckpointError(
            f"{path}: it begins with {magic!r} and says version {version}, but a file of rwkv.cpp begins "
            f"with {MAGIC!r}, and known are the versions {' and '.join(map(str, VERSIONS))}."
        )
    _check_type(path, "the header", version, number)
    foreign = _tensors(path, data, version)
    layout = _layout_of(foreign)
    return Contents(
        path=path,
        format=FORMAT,
        weights=layout.to_official(path, foreign),
        files=(path,),
        config={"vocabulary_size": vocabulary, "hidden_size": channels, "num_layers": layers},
        name_in_file=layout.foreign_name,
    )


def _layout_of(names: Collection[str]) -> Layout:
    """Return the layout of the generation, which the program tells by the same names."""
    for name, layout in (
        ("r_k", RWKV7_LAYOUT),
        ("time_maa_x", rwkv6_layout(1)),
        ("gate.weight", RWKV52_LAYOUT),
        ("ln_x.weight", RWKV50_LAYOUT),
    ):
        if f"blocks.0.att.{name}" in names:
            return layout
    return RWKV4_LAYOUT


def _tensors(path: Path, data: mmap.mmap, version: int) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    place = _HEADER.size
    while place < len(data):
        begin = place
        name, weight, place = _tensor(path, data, begin, version)
        if name in found or len(found) == MAX_TENSORS:
            problem = "is there twice" if name in found else f"is one of more than {MAX_TENSORS:,} tensors"
            raise CheckpointError(f"{path}: {name!r}, at byte {begin:,}, {problem}.")
        found[name] = weight
    return found


def _tensor(path: Path, data: mmap.mmap, begin: int, version: int) -> tuple[str, Weight, int]:
    """Return the name of the tensor at a byte, its weight, and the byte after it."""

    def require(end: int, what: str) -> int:
        if end > len(data):
            raise CheckpointError(
                f"{path}: {what} ends at byte {end:,}, but the file at {len(data):,}: it is cut off."
            )
        return end

    sizes = require(begin + _ENTRY.size, f"the tensor at byte {begin:,}")
    num_axes, name_bytes, number = _ENTRY.unpack_from(data, begin)
    if not (1 <= num_axes <= 3 and 1 <= name_bytes <= MAX_NAME_BYTES):
        raise CheckpointError(
            f"{path}: the tensor at byte {begin:,} has {num_axes:,} axes and a name of {name_bytes:,} bytes, "
            f"but there are 1 to 3 axes and 1 to {MAX_NAME_BYTES} bytes. The file is damaged."
        )
    start = require(sizes + 4 * num_axes + name_bytes, f"the tensor at byte {begin:,}")
    shape = struct.unpack_from(f"<{num_axes}I", data, sizes)[::-1]
    try:
        name = data[start - name_bytes : start].decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: the name of the tensor at byte {begin:,} is not UTF-8.") from error
    kind = _check_type(path, repr(name), version, number)
    if 0 in shape:
        raise CheckpointError(f"{path}: {name!r} is {shape}: it has no numbers.")
    try:
        size = math.prod(shape) * kind.itemsize if isinstance(kind, torch.dtype) else kind.num_bytes(shape)
    except ValueError as error:
        raise CheckpointError(f"{path}: {name!r} cannot be {shape}: {error}.") from error
    end = require(start + size, f"{name!r} of shape {shape}")
    numbers = memoryview(data)[start:end]
    if isinstance(kind, torch.dtype):
        return name, Weight(shape, kind, lambda: torch.frombuffer(numbers, dtype=kind).reshape(shape)), end
    return name, Weight(shape, torch.float32, lambda: kind.dequantise(numbers, shape)), end


def _check_type(path: Path, where: str, version: int, number: int) -> torch.dtype | BlockFormat:
    """Return what the number of a type stands for."""
    if number in _FLOATS:
        return _FLOATS[number]
    if number not in _BLOCKS:
        known = ", ".join(map(str, (*_FLOATS, *_BLOCKS)))
        raise CheckpointError(f"{path}: {where} has numbers of type {number}, but known are {known}.")
    if version == VERSIONS[0]:
        raise CheckpointError(
            f"{path}: {where} was quantised by a rwkv.cpp of before May 2023, whose blocks nobody reads any "
            "more. Quantise the model again."
        )
    return _BLOCKS[number]


def write(path: Path, model: StoredModel, quantization: str | None = None) -> None:
    """Write a file that rwkv.cpp loads, atomically; each weight is read when its turn comes.

    Large matrices are float16 where they were, else float32; `quantization` names the blocks of ggml for
    those that the program quantises itself. All other weights are float32, as the program wants them.

    Raises ConfigError when the program has no such model, or float32 is too narrow for it.
    """
    _require_runnable(path, model)
    config = model.config
    large = {name for name in model.weights if model.is_matrix(name) and ".time_" not in name}
    dtypes = {model.weights[name].dtype for name in large}
    width = torch.float16 if dtypes == {torch.float16} else torch.float32
    blocks = {kind.name: number for number, kind in _BLOCKS.items()}

    def stored(name: str, weight: Weight) -> Weight:
        dtype = width if name in large else torch.float32
        weight = weight.map(lambda tensor: tensor.to(dtype))
        # Of RWKV-7, the program keeps the axes of one that official files have.
        return (
            weight.map(partial(published_shape, name, generation="7")) if config.generation == "7" else weight
        )

    foreign = _layout_for(model).to_foreign({name: stored(name, w) for name, w in model.weights.items()})
    number = _NUMBERS[width] if quantization is None else blocks[quantization]
    with atomic.write(path) as temporary, temporary.open("wb") as file:
        file.write(
            _HEADER.pack(
                MAGIC, VERSIONS[-1], config.vocabulary_size, config.hidden_size, config.num_layers, number
            )
        )
        for name, weight in foreign.items():
            kind = number if quantization and _is_quantised(name, weight) else _NUMBERS[weight.dtype]
            key = name.encode()
            file.write(_ENTRY.pack(len(weight.shape), len(key), kind))
            file.write(struct.pack(f"<{len(weight.shape)}I", *reversed(weight.shape)) + key)
            file.writelines(_numbers(path, name, weight, _BLOCKS.get(kind)))


QUANTISED = {
    name.lower(): partial(write, quantization=name) for name in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
}


def _require_runnable(path: Path, model: StoredModel) -> None:
    config = model.config
    problem = None
    if isinstance(config, RWKV4Config) and config.attention_size != config.hidden_size:
        problem = f"attention_size {config.attention_size} beside hidden_size {config.hidden_size}"
    elif isinstance(config, RWKV5Config) and config.version == "5.1":
        problem = "RWKV-5.1; it runs RWKV-5.0 and 5.2"
    elif any(weight.dtype == torch.float64 for weight in model.weights.values()):
        problem = "float64; convert with dtype float32"
    if problem:
        raise ConfigError(f"{path}: rwkv.cpp knows no {problem}.")


def _layout_for(model: StoredModel) -> Layout:
    if isinstance(model.config, RWKV6Config):
        return rwkv6_layout(model.config.num_heads)
    return _layout_of(model.weights)


def _is_quantised(name: str, weight: Weight) -> bool:
    return len(weight.shape) == 2 and not name.endswith(_UNQUANTISED)


def _numbers(path: Path, name: str, weight: Weight, blocks: BlockFormat | None) -> Iterator[memoryview]:
    """Yield the bytes of a weight, quantised or not, piece by piece."""
    columns = weight.shape[-1]
    if blocks is not None and columns % blocks.block_size:
        raise ConfigError(
            f"{path}: {name!r} has {columns} columns, but {blocks.name} needs a multiple of "
            f"{blocks.block_size}. Write it without quantisation."
        )
    tensor = weight.read()
    if ".time_" in name and not torch.isfinite(tensor).all():
        raise ConfigError(f"{path}: {name!r} would be infinite: the program stores exponentials there.")
    if blocks is not None:
        yield from blocks.quantise(tensor)
    else:
        yield Weight.of(tensor).numbers()
