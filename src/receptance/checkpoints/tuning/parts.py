"""Files with a part of a model, an adapter or a tuned state: from one format to another, equal to the bit.

Adapters go under the names of RWKV-PEFT, or into a folder of PEFT. A safetensors file also says what the
tensors do not: the alpha of a LoRA, the generation of a tuned state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from receptance.checkpoints import formats, pickled, safetensors_file
from receptance.checkpoints.contents import Contents, Weight
from receptance.checkpoints.convert import sha256
from receptance.checkpoints.tuning import lora, peft, tuned_state
from receptance.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True)
class PartConversion:
    """What was converted.

    lost           what the source says and the destination has no place for
    source_sha256  of each file with weights, as destination_sha256
    """

    source: Contents
    destination: Contents
    lost: dict[str, str]
    source_sha256: dict[Path, str]
    destination_sha256: dict[Path, str]


def read(path: str | Path) -> Contents | None:
    """Return the adapter or the tuned state that is here, or None where it is something else."""
    contents = formats.read(path)
    if lora.is_adapter(contents):
        return lora.in_our_spelling(contents)
    return contents if tuned_state.is_tuned_state(contents) else None


def write(path: Path, weights: Mapping[str, Weight], metadata: Mapping[str, str]) -> None:
    """Write a part of a model, atomically, as the path says: a `.pth` or a `.safetensors` file, or a folder.

    Raises ConfigError where the path says nothing, or the format cannot hold the part; CheckpointError where
    a value is not finite.
    """
    part = Contents(path=path, format="", weights=weights, files=(), metadata=dict(metadata))
    checked = {name: part.checked(name) for name in weights}
    if path.suffix == ".pth":
        pickled.write_weights(path, checked)
    elif path.suffix == ".safetensors":
        safetensors_file.write_weights(path, checked, {"format": "pt", **metadata})
    elif not path.suffix and lora.is_adapter(part):
        peft.write(path, part)
    else:
        raise ConfigError(
            f"{path}: a part of a model can be a .pth or .safetensors file; a LoRA a folder, too."
        )


def convert(
    source: str | Path, destination: str | Path, *, lora_alpha: float | None = None
) -> PartConversion:
    """Write an adapter or a tuned state in another format, read what was written and compare the two.

    lora_alpha  the alpha of a LoRA, to be written beside it; None takes what the source says

    Raises CheckpointError when the source is no such part or cannot be read; ConfigError when the destination
    exists or cannot hold it.
    """
    source, destination = Path(source), Path(destination)
    before = read(source)
    if before is None:
        raise CheckpointError(f"{source}: it is neither an adapter nor a tuned state.")
    if destination.exists():
        raise ConfigError(f"{destination} exists already. Remove it, or choose another destination.")
    if lora_alpha is not None:
        before = replace(
            before, metadata={**before.metadata, lora.ALPHA: str(lora.alpha_of(before, lora_alpha))}
        )
    write(destination, before.weights, before.metadata)
    after = read(destination)
    if after is None or after.weights.keys() != before.weights.keys():
        raise CheckpointError(f"{destination}: it does not hold what was written. Is the disk damaged?")
    for name, weight in before.weights.items():
        if not torch.equal(weight.read(), after.weights[name].read()):
            raise CheckpointError(f"{destination}: {name!r} is not what was written. Is the disk damaged?")
    lost = {key: value for key, value in before.metadata.items() if key not in after.metadata}
    return PartConversion(
        source=before,
        destination=after,
        lost=lost,
        source_sha256=sha256(before.files),
        destination_sha256=sha256(after.files),
    )
