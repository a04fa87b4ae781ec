"""Official `.pth` files: a zip archive of a pickle and the raw numbers, read without executing anything.

No unpickler runs: `torch_pickle` says where the pickle has each tensor, and what the archive holds there is
mapped from the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from receptance import atomic
from receptance.checkpoints import mapped_file
from receptance.checkpoints.contents import Contents, Weight, weights
from receptance.checkpoints.names import published_shape, wrapper_prefix
from receptance.checkpoints.pickled import torch_archive, torch_pickle
from receptance.checkpoints.pickled.torch_archive import Record, fill_records
from receptance.checkpoints.pickled.torch_pickle import Place
from receptance.checkpoints.safetensors_file import MAX_AXES
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import CheckpointError


def read(path: Path) -> Contents:
    """Return what a `.pth` file holds, its tensors mapped from the file without being copied.

    Raises CheckpointError, naming the record or the tensor, when the file is cut off, hostile or no flat
    dictionary of tensors.
    """
    tensors = read_tensors(path)
    prefix = wrapper_prefix(tensors)
    return Contents(
        path=path,
        format="pth",
        weights=weights({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}),
        files=(path,),
        name_in_file=lambda name: prefix + name,
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of `torch.save` by the names they have there; raises as `read` does."""
    members = torch_archive.members(path)
    if "byteorder" in members and _content(path, members["byteorder"]) != b"little":
        raise CheckpointError(f"{path}: its numbers are not little-endian. Save it again on a usual machine.")
    state = torch_pickle.read(path, _content(path, members["data.pkl"]))
    places = _checked_places(path, state)
    _check_records(path, places, members)
    whole = torch.frombuffer(mapped_file.read(path), dtype=torch.uint8)
    return {name: _tensor(place, whole.untyped_storage(), members) for name, place in places.items()}


def _content(path: Path, record: Record) -> bytes:
    with path.open("rb") as file:
        file.seek(record.begin)
        return file.read(record.num_bytes)


def _tensor(place: Place, whole: torch.UntypedStorage, members: Mapping[str, Record]) -> Tensor:
    empty = torch.empty(0, dtype=place.storage.dtype)
    if not place.storage.count:
        return empty.reshape(place.size)
    record = members[_record_of(place)]
    return empty.set_(whole[record.begin : record.end], place.offset, place.size, place.stride)


def write(path: Path, model: StoredModel) -> None:
    """Write a model as an official `.pth` file, atomically; each weight is read when its turn comes.

    Its vectors take the dtype of the matrices, as in the published files, where none of them loses a bit.
    """
    generation = model.config.generation
    write_weights(
        path,
        {
            name: weight.map(partial(published_shape, name, generation=generation))
            for name, weight in {**_as_narrow_as_matrices(model), **model.tuned_state}.items()
        },
    )


def write_weights(path: Path, named: Mapping[str, Weight]) -> None:
    """Write weights by name as `torch.save` would, atomically and one at a time.

    Torch writes the archive with room for the numbers (from tensors whose memory nobody touches), and the
    numbers are filled in.
    """
    with atomic.write(path) as temporary:
        # Through an open file: given a path, torch would write the temporary name into the archive.
        with temporary.open("wb") as file, torch.serialization.skip_data():
            torch.save(
                {name: torch.empty(weight.shape, dtype=weight.dtype) for name, weight in named.items()}, file
            )
        filled = (weight for weight in named.values() if weight.num_bytes)
        fill_records(temporary, (weight.numbers for weight in filled))


def _as_narrow_as_matrices(model: StoredModel) -> Mapping[str, Weight]:
    matrices = model.weights["head.weight"].dtype
    wide = {name: weight for name, weight in model.weights.items() if weight.dtype != matrices}
    for weight in wide.values():
        tensor = weight.read()
        if not torch.equal(tensor.to(matrices).to(weight.dtype), tensor):
            return model.weights
    narrow = {name: weight.map(lambda tensor: tensor.to(matrices)) for name, weight in wide.items()}
    return {name: narrow.get(name, weight) for name, weight in model.weights.items()}


def _checked_places(path: Path, state: object) -> dict[str, Place]:
    """Return what the pickle stands for, if it is a flat dictionary of tensors."""
    if not isinstance(state, dict):
        kind = "Tensor" if isinstance(state, Place) else type(state).__name__
        raise CheckpointError(f"{path}: it holds a {kind}, but a model is a dict of tensors.")
    if "_strategy" in state:
        strategy = state["_strategy"]
        raise CheckpointError(
            f"{path}: the package 'rwkv' converted it for the strategy "
            f"{strategy[:80] if isinstance(strategy, str) else '?'!r}: "
            "matrices are transposed or rounded, and the first layer norm is gone. "
            "Load the file that it was made from."
        )
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: it has the key {name!r}, but names of tensors are strings.")
        if not isinstance(value, Place):
            raise CheckpointError(
                f"{path}: {name!r} is a {type(value).__name__}, but a model is a flat dict of tensors. "
                "From a trainer's file, save the state_dict() of the model alone."
            )
    return state


def _check_records(path: Path, places: Mapping[str, Place], members: Mapping[str, Record]) -> None:
    """Check that each tensor lies in a record of the archive, whole and with numbers of its own."""
    needed = 0
    for name, place in places.items():
        width, record = place.storage.dtype.itemsize, members.get(_record_of(place))
        claimed, held = place.storage.count * width, record.num_bytes if record else 0
        if claimed != held:
            raise CheckpointError(
                f"{path}: {name!r} claims {claimed:,} bytes, but its record in the archive has {held:,}."
            )
        if len(place.size) > MAX_AXES or not place.is_within():
            raise CheckpointError(
                f"{path}: {name!r} is {place.size} in steps of {place.stride} from number {place.offset} on, "
                f"but its record has {place.storage.count:,} numbers."
            )
        if (size := math.prod(place.size) * width) > held:
            raise CheckpointError(
                f"{path}: {name!r} is {place.size}, which needs {size:,} bytes, but it has {held:,}: it "
                "repeats its numbers."
            )
        needed += size
    records = {_record_of(place) for place in places.values()} & members.keys()
    if needed > 2 * sum(members[record].num_bytes for record in records):
        raise CheckpointError(
            f"{path}: its tensors share memory: they need more than twice what the file holds."
        )


def _record_of(place: Place) -> str:
    return f"data/{place.storage.key}"
