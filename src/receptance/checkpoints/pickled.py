"""Official `.pth` files: a zip archive of a pickle and the raw numbers, read without executing anything.

This is the only place that calls `torch.load`, whose restricted unpickler knows tensors and plain containers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from receptance import atomic
from receptance.checkpoints.contents import Contents, Weight, weights
from receptance.checkpoints.names import published_shape, wrapper_prefix
from receptance.checkpoints.stored_model import StoredModel
from receptance.checkpoints.torch_archive import Record, fill_records, read_records
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
    records = read_records(path)
    try:
        # A later change in place copies the page: the file stays as it is.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a hostile pickle can make the reader fail in any way
        reason = str(error).strip().partition("\n")[0][:300]
        raise CheckpointError(
            f"{path}: its pickle is damaged or wants more than tensors; nothing in it was executed. "
            f"Torch says: {type(error).__name__}: {reason}"
        ) from error
    tensors = _checked_tensors(path, state)
    _check_storages(path, tensors, records)
    return tensors


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


def _checked_tensors(path: Path, state: object) -> dict[str, Tensor]:
    """Return what was unpickled, if it is a flat dictionary of plain tensors."""
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: it holds a {type(state).__name__}, but a model is a dict of tensors.")
    if "_strategy" in state:
        raise CheckpointError(
            f"{path}: the package 'rwkv' converted it for the strategy {str(state['_strategy'])[:80]!r}: "
            "matrices are transposed or rounded, and the first layer norm is gone. "
            "Load the file that it was made from."
        )
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"{path}: it has the key {str(name)[:80]!r}, but names of tensors are strings."
            )
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: {name!r} is a {type(value).__name__}, but a model is a flat dict of tensors. "
                "From a trainer's file, save the state_dict() of the model alone."
            )
        if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.is_meta:
            raise CheckpointError(
                f"{path}: {name!r} is no plain tensor ({type(value).__name__}, {value.layout})."
            )
    return {name: value.detach() for name, value in state.items()}


def _check_storages(path: Path, tensors: Mapping[str, Tensor], records: list[Record]) -> None:
    """Check that each tensor lies in a record of the archive, whole and with numbers of its own.

    Torch believes the pickle about sizes, and a tensor may repeat its numbers by a stride of zero.
    """
    places = {name: tensor.untyped_storage().data_ptr() for name, tensor in tensors.items() if tensor.numel()}
    sizes = {record.begin: record.num_bytes for record in records}
    origin = min(places.values(), default=0) - min(sizes, default=0)  # where the file lies in memory
    for name, place in places.items():
        tensor = tensors[name]
        claimed, held = tensor.untyped_storage().nbytes(), sizes.get(place - origin)
        if claimed != held:
            raise CheckpointError(
                f"{path}: {name!r} claims {claimed:,} bytes, but its record in the archive has {held or 0:,}."
            )
        if tensor.nbytes > held:
            raise CheckpointError(
                f"{path}: {name!r} is {tuple(tensor.shape)}, which needs {tensor.nbytes:,} bytes, but it has "
                f"{held:,}: it repeats its numbers."
            )
    if sum(tensor.nbytes for tensor in tensors.values()) > 2 * sum(sizes.values()):
        raise CheckpointError(
            f"{path}: its tensors share memory: they need more than twice what the file holds."
        )
