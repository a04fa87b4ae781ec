"""JSON files that hold one object: read without trust, written for people to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from receptance.errors import CheckpointError

# Once read it takes 25 times as much memory. The index of a model with 61 layers has 0.2 million.
MAX_BYTES = 2_000_000


def read(path: Path) -> dict[str, object]:
    """Return the object in a file; raises CheckpointError when it is too large, no JSON or no object."""
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: it has more than {MAX_BYTES:,} bytes.")
    try:
        content = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: it is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: it is a JSON {type(content).__name__}, but it must be an object.")
    return content


def write(path: Path, content: Mapping[str, object]) -> None:
    """Write an object; its keys stay in their order."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
