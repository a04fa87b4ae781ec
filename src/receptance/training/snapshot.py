"""All that a run needs to go on as if it had never stopped: a folder of one safetensors file and a manifest.

The tensors are the optimizer's: float32 masters of the weights, and moments. Position, sizes, recipe and what
the guard remembers stand in the file's header. Nothing else is remembered between steps: whatever is drawn at
random follows from the seed and the step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from receptance import atomic
from receptance.checkpoints import safetensors_file
from receptance.checkpoints.contents import Weight
from receptance.errors import CheckpointError, TrainingError
from receptance.training import manifest
from receptance.training.distributed import ALONE, World
from receptance.training.guard import Memory
from receptance.training.manifest import Fingerprint, Manifest

FILE = "state.safetensors"
PART = "state-{number:05}-of-{count:05}.safetensors"  # instead, where several processes wrote it
FORMAT = "receptance training snapshot 1"  # of that file

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has come."""

    step: NonNegativeInt = 0  # steps done, so also the number of the next one
    tokens: NonNegativeInt = 0  # read in them
    seconds: Seconds = 0.0  # spent, over all sessions of the run


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at rest."""

    position: Position
    model: Mapping[str, Any]  # generation and sizes
    data: Mapping[str, Any]  # what tells one prepared text from another
    recipe: Mapping[str, Any]  # as nested tables, see recipe.config_to_tables
    tensors: Mapping[str, Tensor]
    parts: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # of tensors of which each process has some rows
    guard: Memory = field(default_factory=Memory)

    def save(self, folder: Path, world: World = ALONE) -> None:
        """Write the snapshot into a new folder, and read it back before that gets its name.

        Where several processes have parts of it, all of them call this with their world. Each writes a file,
        and the first one, when all are whole, the manifest.

        Raises OSError where the disk refuses, CheckpointError where a value is not finite or the disk gives
        back other bytes than it was given.
        """
        with world.together(), ExitStack() as stack:
            with world.together():
                opened = stack.enter_context(atomic.write_folder(folder)) if world.is_first else None
            temporary = Path(world.texts(str(opened))[0])
            name = FILE if world.size == 1 else PART.format(number=world.rank + 1, count=world.size)
            with world.together():
                file = manifest.write_file(temporary / name, self._content(folder, world))
                if not world.is_first:
                    atomic.sync(temporary / name)  # what the first one will do with its own
            files = dict(json.loads(text) for text in world.texts(json.dumps([name, asdict(file)])))
            with world.together():
                if world.is_first:
                    fingerprints = {name: Fingerprint(**said) for name, said in files.items()}
                    Manifest(step=self.position.step, files=fingerprints).save(temporary)
            with world.together():
                manifest.check_folder(temporary, only=name)

    def _content(self, folder: Path, world: World) -> Iterator[bytes | memoryview]:
        metadata = {
            "format": FORMAT,
            "position": json.dumps(asdict(self.position)),
            "model": json.dumps(self.model),
            "data": json.dumps(self.data),
            "recipe": json.dumps(self.recipe),
            "guard": json.dumps(asdict(self.guard)),
        }
        tensors = {**self.tensors, **self.parts} if world.is_first else self.parts
        checked = {name: Weight.of(tensor).finite(f"{folder}: {name!r}") for name, tensor in tensors.items()}
        return safetensors_file.content(folder, checked, metadata)


_POSITION = TypeAdapter(Position)
_MEMORY = TypeAdapter(Memory)
_TABLE = TypeAdapter(dict[str, Any])


def load_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot, after a check of every byte; its tensors are mapped from the file.

    Raises CheckpointError, naming the file, where it is damaged; OSError where it cannot be read.
    """
    found = manifest.check_folder(folder)
    parts = [load_state(folder / name) for name in found.files]
    for name, part in zip(found.files, parts, strict=True):
        if part.position.step != found.step:
            raise CheckpointError(
                f"{folder}: the manifest says step {found.step}, {name} {part.position.step}."
            )
    if len(parts) == 1:
        return parts[0]
    return replace(parts[0], tensors=Rows([part.tensors for part in parts]))


class Rows(Mapping[str, Tensor]):
    """Tensors that the first file holds, or of which each holds some rows, put together when asked for."""

    def __init__(self, files: Sequence[Mapping[str, Tensor]]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> Tensor:
        parts = [file[name] for file in self._files if name in file]
        return torch.cat(parts) if len(parts) > 1 else self._files[0][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files[0])

    def __len__(self) -> int:
        return len(self._files[0])


def load_state(path: Path) -> Snapshot:
    """Read the file of a snapshot by itself, without a manifest that vouches for it.

    Raises CheckpointError or TrainingError where it is damaged or another file.
    """
    tensors, metadata = safetensors_file.read(path)
    if metadata.get("format") != FORMAT:
        came = metadata.get("format", "something else")
        raise TrainingError(f"{path}: this is {came!r}, but it must be {FORMAT!r}.")
    try:
        return Snapshot(
            position=_POSITION.validate_json(metadata["position"], strict=True),
            model=_TABLE.validate_json(metadata["model"]),
            data=_TABLE.validate_json(metadata["data"]),
            recipe=_TABLE.validate_json(metadata["recipe"]),
            guard=_MEMORY.validate_json(metadata["guard"], strict=True),
            tensors=tensors,
        )
    except (KeyError, ValidationError) as error:
        raise TrainingError(f"{path}: the header of this snapshot is damaged: {error}.") from error
