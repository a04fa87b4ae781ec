"""All that a run needs to go on as if it had never stopped: a folder of one safetensors file and a manifest.

The tensors are the optimizer's: float32 masters of the weights, and moments. Position, sizes, recipe and what
the guard remembers stand in the file's header. Nothing else is remembered between steps: whatever is drawn at
random follows from the seed and the step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from receptance import atomic
from receptance.checkpoints import safetensors_file
from receptance.checkpoints.contents import Weight
from receptance.errors import CheckpointError, TrainingError
from receptance.training import manifest
from receptance.training.guard import Memory
from receptance.training.manifest import Manifest

FILE = "state.safetensors"
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
    guard: Memory = field(default_factory=Memory)

    def save(self, folder: Path) -> None:
        """Write the snapshot into a new folder, and read it back before that gets its name.

        Raises OSError where the disk refuses, CheckpointError where a value is not finite or the disk gives
        back other bytes than it was given.
        """
        with atomic.write_folder(folder) as temporary:
            file = manifest.write_file(temporary / FILE, self._content(folder))
            Manifest(step=self.position.step, files={FILE: file}).save(temporary)
            manifest.check_folder(temporary)

    def _content(self, folder: Path) -> Iterator[bytes | memoryview]:
        metadata = {
            "format": FORMAT,
            "position": json.dumps(asdict(self.position)),
            "model": json.dumps(self.model),
            "data": json.dumps(self.data),
            "recipe": json.dumps(self.recipe),
            "guard": json.dumps(asdict(self.guard)),
        }
        checked = {
            name: Weight.of(tensor).finite(f"{folder}: {name!r}") for name, tensor in self.tensors.items()
        }
        return safetensors_file.content(folder, checked, metadata)


_POSITION = TypeAdapter(Position)
_MEMORY = TypeAdapter(Memory)
_TABLE = TypeAdapter(dict[str, Any])


def load_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot, after a check of every byte; its tensors are mapped from the file.

    Raises CheckpointError, naming the file, where it is damaged; OSError where it cannot be read.
    """
    step = manifest.check_folder(folder).step
    snapshot = load_state(folder / FILE)
    if snapshot.position.step != step:
        raise CheckpointError(f"{folder}: the manifest says step {step}, {FILE} {snapshot.position.step}.")
    return snapshot


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
