"""What vouches for a folder: a JSON file that says how long each file of it is, and its SHA-256.

A manifest is right when it is, byte for byte, the one that would be written for the folder as it stands. So
no bit can change unnoticed, neither of the files nor of the manifest itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from receptance import whole_file
from receptance.errors import CheckpointError

NAME = "manifest.json"
FORMAT: Literal["receptance training snapshot"] = "receptance training snapshot"

_LARGEST_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What tells the content of a file from every other."""

    bytes: NonNegativeInt
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a snapshot by name, and the step at which it was taken."""

    format: Literal["receptance training snapshot"] = FORMAT
    step: NonNegativeInt
    files: Mapping[str, Fingerprint]

    def save(self, folder: Path) -> None:
        """Write the manifest into the folder that it speaks of."""
        (folder / NAME).write_bytes(self._text())

    def _text(self) -> bytes:
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


_ADAPTER = TypeAdapter(Manifest)


def write_file(path: Path, content: Iterable[bytes | memoryview]) -> Fingerprint:
    """Write a new file part by part, and return the fingerprint of what was given to be written."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for part in content:
            digest.update(part)
            size += file.write(part)
    return Fingerprint(bytes=size, sha256=digest.hexdigest())


def check_folder(folder: Path, *, only: str | None = None) -> Manifest:
    """Read every byte of a folder, and return its manifest if all of it is as when it was written.

    With `only` a name, that file alone is read beside the manifest.

    Raises CheckpointError that names the file which is missing, cut off or changed; OSError where one cannot
    be read.
    """
    path = folder / NAME
    text = whole_file.read(path, limit=_LARGEST_BYTES, needed="a manifest", error=CheckpointError)
    try:
        manifest = _ADAPTER.validate_json(text, strict=True)
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: damaged, or of another version: {error.errors()[0]['msg']}."
        ) from error
    if manifest._text() != text:
        raise CheckpointError(f"{path}: damaged: it is not as a manifest is written.")
    for name, expected in manifest.files.items():
        if only in (None, name):
            _check_file(folder, name, expected)
    return manifest


def _check_file(folder: Path, name: str, expected: Fingerprint) -> None:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise CheckpointError(f"{path}: missing, but {NAME} lists it.")
    size = path.stat().st_size
    if size != expected.bytes:
        raise CheckpointError(f"{path}: has {size:,} bytes, but it was written with {expected.bytes:,}.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected.sha256:
        raise CheckpointError(
            f"{path}: changed since it was written: its SHA-256 is {digest}, but {NAME} says "
            f"{expected.sha256}."
        )
