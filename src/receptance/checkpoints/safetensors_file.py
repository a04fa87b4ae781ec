"""Safetensors files: mapped after a check that can say what is wrong, written reproducibly.

The file is eight bytes with the length of the header, the header (JSON: name -> dtype, shape, place), and the
data without gaps (github.com/huggingface/safetensors).
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from receptance import atomic
from receptance.checkpoints import mapped_file
from receptance.checkpoints.contents import Weight, weights
from receptance.errors import CheckpointError, ConfigError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# Read as JSON it takes 25 times as much memory. That of a model with 61 layers has 0.3 million.
MAX_HEADER_BYTES = 2_000_000
MAX_AXES = 8
MAX_NUMBERS = 2**48  # of one tensor; torch counts bytes in 63 bits
_ALIGNMENT = 64  # the data begins at a multiple of a cache line


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, mapped from the file without being copied, and the metadata of the header.

    Changing a tensor in place changes neither the file nor what others see of it.

    Raises CheckpointError, naming the tensor or the byte, when the file is cut off, inconsistent or hostile.
    """
    header = _read_header(path)
    metadata = _check_metadata(path, header.pop("__metadata__", {}))
    entries = {name: _check_entry(path, name, entry) for name, entry in header.items()}
    data = mapped_file.read(path)[_check_places(path, entries) :]
    return {name: entry.tensor(data) for name, entry in entries.items()}, metadata


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors that are in memory, and metadata; see `write_weights`."""
    write_weights(path, weights(tensors), metadata)


def write_weights(path: Path, named: Mapping[str, Weight], metadata: Mapping[str, str]) -> None:
    """Write weights and metadata, atomically; each weight is read when its turn comes, and then forgotten.

    The same weights and metadata always give the same bytes. Raises ConfigError as `content` does.
    """
    with atomic.write(path) as temporary, temporary.open("wb") as file:
        for part in content(path, named, metadata):
            file.write(part)


def content(
    path: Path, named: Mapping[str, Weight], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield what to write into a file: the header, then the numbers of each weight when its turn comes.

    Raises ConfigError, which names the path, where the metadata are longer than a reader takes.
    """
    spellings = {dtype: spelling for spelling, dtype in DTYPES.items()}
    # What fills whole cache lines comes first, then halves of them and so on: so each weight begins at a
    # multiple of what divides its size, and each value lies at a multiple of its own.
    ordered = dict(sorted(named.items(), key=lambda item: -math.gcd(item[1].num_bytes, _ALIGNMENT)))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, weight in ordered.items():
        begin, end = end, end + weight.num_bytes
        header[name] = {
            "dtype": spellings[weight.dtype],
            "shape": list(weight.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ConfigError(
            f"{path}: its names and metadata need {len(text):,} bytes, but a header has at most "
            f"{MAX_HEADER_BYTES:,}. Leave metadata out."
        )
    yield len(text).to_bytes(8, "little") + text
    for weight in ordered.values():
        yield weight.numbers()


def _read_header(path: Path) -> dict[str, object]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(
                f"{path}: bytes 0 to 7 promise {length:,} bytes of header, but the file has {size:,} bytes. "
                "It is cut off, or it is not a safetensors file."
            )
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: its header has {length:,} bytes, but no model needs more than {MAX_HEADER_BYTES:,}."
            )
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: byte {8 + error.start} of the header is not UTF-8.") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path}: the header is not JSON from byte {8 + error.pos} on: {error.msg}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header cannot be read: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is a {type(header).__name__}, but it must be an object.")
    return header


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        name, count = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r} occurs {count} times")
    return names


def _check_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: '__metadata__' must be an object of strings.")
    return metadata


@dataclass(frozen=True)
class _Entry:
    """What the header says of a tensor; its data begin and end at these bytes of the data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def tensor(self, data: memoryview) -> Tensor:
        if self.begin == self.end:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(data[self.begin : self.end], dtype=self.dtype).reshape(self.shape)


def _check_entry(path: Path, name: str, entry: object) -> _Entry:
    """Return what the header says of a tensor, if it agrees with itself."""
    match entry:
        case {"dtype": str(spelling), "shape": [*shape], "data_offsets": [begin, end]} if len(
            shape
        ) <= MAX_AXES and all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            pass
        case _:
            raise CheckpointError(
                f"{path}: the header's entry for {name!r} is malformed: {str(entry)[:200]}."
            )
    if spelling not in DTYPES:
        raise CheckpointError(f"{path}: {name!r} is of type {spelling}; known are {', '.join(DTYPES)}.")
    if math.prod(max(1, size) for size in shape) > MAX_NUMBERS:  # also where another axis is 0
        raise CheckpointError(f"{path}: {name!r} has the shape {tuple(shape)}, which no tensor can have.")
    needed = math.prod(shape) * DTYPES[spelling].itemsize
    if end - begin != needed:
        raise CheckpointError(
            f"{path}: {name!r} of shape {tuple(shape)} in {spelling} needs {needed:,} bytes, but the header "
            f"gives it {end - begin:,} (data bytes {begin:,} to {end:,})."
        )
    return _Entry(DTYPES[spelling], tuple(shape), begin, end)


def _check_places(path: Path, entries: dict[str, _Entry]) -> int:
    """Return where the data begin, if the tensors fill them, one behind the other."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    size = path.stat().st_size
    places = {name: (entry.begin, entry.end) for name, entry in entries.items()}
    ordered = sorted(places.items(), key=lambda item: item[1])
    for (_, (_, before)), (name, (begin, _)) in itertools.pairwise([("", (0, 0)), *ordered]):
        if begin != before:
            relation = "overlaps the tensor before it" if begin < before else "leaves a gap before it"
            raise CheckpointError(f"{path}: {name!r} begins at data byte {begin:,} and {relation}.")
    name, (_, end) = ordered[-1] if ordered else ("__metadata__", (0, 0))
    if start + end != size:
        problem = "it is cut off" if start + end > size else "it has bytes that belong to no tensor"
        raise CheckpointError(
            f"{path}: {name!r} ends at byte {start + end:,}, but the file has {size:,} bytes: {problem}."
        )
    return start
