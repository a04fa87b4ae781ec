"""All that a run needs to go on as if it had never stopped, in one safetensors file.

The tensors are the optimizer's: float32 masters of the weights, and moments. Position, sizes and recipe
stand in the file's header. Nothing else is remembered between steps: a batch follows from the seed and the
step, and the model draws no random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from receptance.checkpoints import safetensors_file
from receptance.errors import TrainingError

FORMAT = "receptance training snapshot 1"

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

    def save(self, path: Path) -> None:
        """Write the snapshot, whole or not at all. Raises OSError where the disk refuses."""
        metadata = {
            "format": FORMAT,
            "position": json.dumps(asdict(self.position)),
            "model": json.dumps(self.model),
            "data": json.dumps(self.data),
            "recipe": json.dumps(self.recipe),
        }
        safetensors_file.write(path, self.tensors, metadata)


_POSITION = TypeAdapter(Position)
_TABLE = TypeAdapter(dict[str, Any])


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot; its tensors are mapped from the file.

    Raises TrainingError where there is none, CheckpointError where the file is damaged.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such file, so there is nothing to go on from. Start the run again.")
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
            tensors=tensors,
        )
    except (KeyError, ValidationError) as error:
        raise TrainingError(f"{path}: the header of this snapshot is damaged: {error}.") from error
