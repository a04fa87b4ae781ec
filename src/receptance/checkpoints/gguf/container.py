"""GGUF, the container of llama.cpp: typed metadata and tensors (github.com/ggml-org/ggml, docs/gguf.md).

A header (magic, version, two counts), the metadata (key, type, value), what is said of each tensor (name,
sizes with the innermost first, type, place), and the numbers, each tensor at a multiple of the alignment.
Nothing that a file says of itself is believed before it is held against the size of the file.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from receptance.checkpoints import mapped_file
from receptance.checkpoints.contents import Weight
from receptance.checkpoints.ggml_blocks import BLOCK_FORMATS
from receptance.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # 3 allows another byte order, and changes nothing else
DEFAULT_ALIGNMENT = 32

# The numbers of `ggml_type`; those that are neither plain nor in BLOCK_FORMATS are known by name alone.
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32",
    27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}

# More than any model has; a file that claims more is not one.
MAX_TENSORS = 1 << 16
MAX_KEYS = 1 << 12
MAX_STRINGS = 1 << 20  # in one array
MAX_STRING_BYTES = 1 << 24
MAX_KEY_BYTES = (1 << 16) - 1
MAX_NAME_BYTES = 64
MAX_AXES = 4
MAX_ALIGNMENT = 1 << 16

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, eq=False)
class Array:
    """An array of the metadata: what it holds is read when somebody wants it."""

    item_type: int
    count: int
    data: memoryview

    def strings(self) -> list[bytes]:
        """Return the strings; none where the array holds something else."""
        found, begin = [], 0
        for _ in range(self.count if self.item_type == _STRING else 0):
            (length,) = _LENGTH.unpack_from(self.data, begin)
            begin += _LENGTH.size + length
            found.append(bytes(self.data[begin - length : begin]))
        return found

    def __repr__(self) -> str:
        return f"an array of {self.count:,}"


@dataclass(frozen=True)
class GGUFFile:
    """What a file holds; arrays and weights are read when asked for."""

    metadata: dict[str, object]  # int, float, bool, str or Array
    weights: dict[str, Weight]  # block formats as float32, shapes with the innermost axis last


def read(path: Path) -> GGUFFile:
    """Return what a GGUF file holds, its weights mapped from the file.

    Changing a weight in place changes neither the file nor what others see of it.

    Raises CheckpointError, naming the byte, the key or the tensor, when the file is cut off, contradicts
    itself, or has numbers in a format that is not read.
    """
    size = path.stat().st_size
    if size < 24:
        raise CheckpointError(f"{path}: a GGUF file begins with 24 bytes of header, but this one has {size}.")
    data = mapped_file.read(path)
    scanner = _Scanner(path, data)
    num_tensors, num_keys = _header(scanner)
    metadata = _metadata(scanner, num_keys)
    entries = [_entry(scanner) for _ in range(num_tensors)]
    alignment = _alignment(path, metadata)
    begin = _aligned(scanner.position, alignment)
    return GGUFFile(
        metadata, _weights(path, torch.frombuffer(data, dtype=torch.uint8), begin, alignment, entries)
    )


@dataclass(frozen=True)
class _Entry:
    """What a file says of a tensor."""

    name: str
    shape: tuple[int, ...]
    type: str  # one of TYPES, or a number
    offset: int  # from where the numbers begin

    def num_bytes(self) -> int:
        """Return the size of its numbers; ValueError where no tensor can be like this."""
        if 0 in self.shape:
            raise ValueError("an axis has the size 0")
        if self.type in PLAIN_TYPES:
            return math.prod(self.shape) * PLAIN_TYPES[self.type].itemsize
        if self.type in BLOCK_FORMATS:
            return BLOCK_FORMATS[self.type].num_bytes(self.shape)
        known = ", ".join([*PLAIN_TYPES, *BLOCK_FORMATS])
        raise ValueError(
            f"its type is {self.type}, and receptance reads {known}; "
            "llama-quantize --allow-requantize makes one of these of it"
        )

    def weight(self, numbers: Tensor) -> Weight:
        """Return the tensor of these bytes."""
        if self.type in PLAIN_TYPES:
            return Weight.of(numbers.view(PLAIN_TYPES[self.type]).reshape(self.shape))
        block = BLOCK_FORMATS[self.type]
        return Weight(self.shape, torch.float32, partial(block.dequantise, numbers.numpy(), self.shape))


class _Scanner:
    """Reads a file from front to back and never past its end."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path, self.data, self.position = path, data, 0

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}.")

    def take(self, count: int, what: str) -> memoryview:
        """Return the next bytes."""
        begin, end = self.position, self.position + count
        if end > len(self.data):
            raise self.error(
                f"{what} at byte {begin:,} needs {count:,} bytes, but this GGUF file has "
                f"{len(self.data):,} in all: it is cut off, or damaged before"
            )
        self.position = end
        return self.data[begin:end]

    def number(self, code: str, what: str) -> int | float:
        """Return the next number; its format is that of `struct`."""
        found: int | float = struct.unpack(code, self.take(struct.calcsize(code), what))[0]
        return found

    def count(self, what: str, limit: int, code: str = "<Q") -> int:
        """Return the next number, which counts something."""
        begin = self.position
        found = int(self.number(code, what))
        if found > limit:
            raise self.error(f"{what} at byte {begin:,} is {found:,}, but no model has more than {limit:,}")
        return found

    def string(self, what: str, limit: int) -> str:
        """Return the next string: its length in bytes, and UTF-8."""
        length = self.count(f"the length of {what}", limit)
        begin = self.position
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} at byte {begin + error.start:,} is not UTF-8") from error

    def value(self, what: str) -> object:
        """Return the next value of the metadata."""
        kind = int(self.number("<I", f"the type of {what}"))
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(what, MAX_STRING_BYTES)
        if kind == _ARRAY:
            return self.array(what)
        raise self.error(f"{what} is of type {kind}, which GGUF does not have")

    def array(self, what: str) -> Array:
        """Return the next array, without looking at what it holds."""
        kind = int(self.number("<I", f"the type of {what}"))
        if kind in _SCALARS:
            width = struct.calcsize(_SCALARS[kind])
            count = self.count(f"the length of {what}", len(self.data) // width)
            return Array(kind, count, self.take(count * width, what))
        if kind != _STRING:
            raise self.error(f"{what} is an array of type {kind}, but arrays hold numbers or strings")
        count = self.count(f"the length of {what}", MAX_STRINGS)
        end = self.position
        for _ in range(count):  # a vocabulary: a hundred thousand times
            end += _LENGTH.size
            if end > len(self.data):
                break  # which `take` refuses
            end += _LENGTH.unpack_from(self.data, end - _LENGTH.size)[0]
        return Array(kind, count, self.take(end - self.position, what))


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "…")


def _header(scanner: _Scanner) -> tuple[int, int]:
    """Return how many tensors and keys there are."""
    if scanner.take(4, "the magic") != MAGIC:
        raise scanner.error("it does not begin with 'GGUF'")
    version = int(scanner.number("<I", "the version"))
    if version not in VERSIONS:
        if version.to_bytes(4, "big") in [known.to_bytes(4, "little") for known in VERSIONS]:
            raise scanner.error(
                "it is a GGUF file of a big-endian machine. Convert it with gguf-convert-endian"
            )
        raise scanner.error(
            f"it is a GGUF file of version {version}, but receptance reads {' and '.join(map(str, VERSIONS))}"
        )
    return scanner.count("the number of tensors", MAX_TENSORS), scanner.count("the number of keys", MAX_KEYS)


def _metadata(scanner: _Scanner, count: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(count):
        key = scanner.string("a key of the metadata", MAX_KEY_BYTES)
        if key in metadata:
            raise scanner.error(f"the key {_shown(key)} occurs twice in the metadata")
        metadata[key] = scanner.value(_shown(key))
    return metadata


def _entry(scanner: _Scanner) -> _Entry:
    name = scanner.string("the name of a tensor", MAX_NAME_BYTES)
    shown = _shown(name)
    num_axes = scanner.count(f"the number of axes of {shown}", MAX_AXES, "<I")
    sizes = [int(scanner.number("<Q", f"a size of {shown}")) for _ in range(num_axes)]
    kind = int(scanner.number("<I", f"the type of {shown}"))
    type_name = TYPES.get(kind, f"number {kind}")
    return _Entry(name, tuple(reversed(sizes)), type_name, int(scanner.number("<Q", f"the place of {shown}")))


def _alignment(path: Path, metadata: dict[str, object]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise CheckpointError(
            f"{path}: 'general.alignment' is {alignment!r}, but it must be a power of two, "
            f"and {MAX_ALIGNMENT:,} at most."
        )
    return alignment


def _weights(
    path: Path, data: Tensor, begin: int, alignment: int, entries: list[_Entry]
) -> dict[str, Weight]:
    """Return the weights, if they fill the file one behind the other, as llama.cpp demands too."""
    weights: dict[str, Weight] = {}
    offset = 0
    for entry in entries:
        shown = _shown(entry.name)
        if entry.name in weights:
            raise CheckpointError(f"{path}: there are two tensors of the name {shown}.")
        if entry.offset != offset:
            relation = "overlaps the tensor before it" if entry.offset < offset else "leaves a gap before it"
            raise CheckpointError(
                f"{path}: {shown} lies at byte {entry.offset:,} of the numbers and {relation}; "
                f"it must lie at {offset:,}."
            )
        try:
            num_bytes = entry.num_bytes()
        except ValueError as error:
            raise CheckpointError(f"{path}: {shown} cannot be {entry.shape}: {error}.") from error
        start = begin + offset
        end = start + num_bytes
        if end > len(data):
            raise CheckpointError(
                f"{path}: {shown} of shape {entry.shape} in {entry.type} ends at byte {end:,}, but "
                f"the file has {len(data):,} bytes: it is cut off."
            )
        weights[entry.name] = entry.weight(data[start:end])
        offset += _aligned(num_bytes, alignment)
    if len(data) > begin + offset:
        raise CheckpointError(
            f"{path}: the tensors of this GGUF file end at byte {begin + offset:,}, but it has {len(data):,} "
            "bytes: some belong to no tensor."
        )
    return weights


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
