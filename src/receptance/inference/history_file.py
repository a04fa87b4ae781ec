"""A history in a file: a text that goes on later, where it ended, with exactly the states that were kept.

A safetensors file. The tensors are `tokens`, and for each kept position what the model remembered there:

    POSITION.FIELD     a tensor of the state, in its own number format
    POSITION.logits    of the next token

At position 0 there is nothing where the text began without a state. The metadata says which model it is of,
and has a digest of the tensors, so that damage is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from receptance.checkpoints import safetensors_file
from receptance.checkpoints.contents import Weight
from receptance.checkpoints.fingerprint import fingerprint
from receptance.errors import CheckpointError
from receptance.inference.history import History, Point
from receptance.models import AnyModel, State
from receptance.runtimes import NativeModel

FORMAT = "receptance.history.1"
FIRST_DIGITS = 12  # of a fingerprint in a message


def write(path: Path, history: History, model: AnyModel | NativeModel) -> None:
    """Write a history of this model, whole or not at all; the same history always gives the same bytes."""
    tensors = {"tokens": torch.tensor(history.tokens, dtype=torch.int32)}
    for position, point in sorted(history.points.items()):
        named = {} if point.state is None else point.state.tensors()
        named |= {} if point.logits is None else {"logits": point.logits}
        tensors |= {f"{position}.{name}": tensor.contiguous() for name, tensor in named.items()}
    num_written = str(len(history.written))
    said = {"num_written": num_written, "digest": digest(tensors, num_written)}
    safetensors_file.write(path, tensors, _identity(model) | said)


def read(path: Path, model: AnyModel | NativeModel) -> History:
    """Return the history in a file, to go on with this model.

    Raises CheckpointError when the file is damaged, is none of these files or is of another model.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file, but a saved state was needed.")
    tensors, metadata = safetensors_file.read(path)
    _require_same_model(path, metadata, model)
    num_written = metadata.get("num_written", "")
    if metadata.get("digest") != digest(tensors, num_written):
        raise CheckpointError(f"{path}: is damaged: its content is not what its digest was made of.")
    tokens = _tokens(path, tensors.pop("tokens", None), model.config.vocabulary_size)
    points = _points(path, tensors, model, len(tokens))
    if not re.fullmatch("[0-9]{1,18}", num_written) or int(num_written) > len(tokens):
        raise CheckpointError(
            f"{path}: num_written is {num_written[:40]!r}, but the text has {len(tokens)} tokens."
        )
    return History(model, tokens=tokens, points=points, num_written=int(num_written))


def digest(tensors: Mapping[str, Tensor], num_written: str) -> str:
    """Return the SHA-256 of what a file holds beside the identity of its model, as hexadecimal digits."""
    whole = hashlib.sha256(num_written.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"\n{name} ".encode())
        whole.update(Weight.of(tensor).numbers())
    return whole.hexdigest()


def _identity(model: AnyModel | NativeModel) -> dict[str, str]:
    config = {"generation": model.config.generation, **asdict(model.config)}
    is_native = isinstance(model, NativeModel)
    return {
        "format": FORMAT,
        "config": json.dumps(config),
        "runtime": "native" if is_native else "torch",
        "dtype": model.format if isinstance(model, NativeModel) else str(model.dtype).removeprefix("torch."),
        "fingerprint": model.fingerprint if isinstance(model, NativeModel) else fingerprint(model),
    }


def _require_same_model(path: Path, claimed: Mapping[str, str], model: AnyModel | NativeModel) -> None:
    if claimed.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is no saved state: its format is {claimed.get('format', 'not said')[:40]!r}, not "
            f"{FORMAT!r}. (A tuned state, which texts start from, is given when the model is loaded.)"
        )
    mine = _identity(model)
    for name, advice in (
        ("config", "It was saved by a model of other sizes: load that one."),
        ("runtime", "Load the model in the runtime in which the state was saved."),
        ("dtype", "Load the model in the number format that it had when the state was saved."),
        ("fingerprint", "It was saved by a model with other weights: another one, another step or adapter."),
    ):
        theirs = claimed.get(name, "not said")
        if theirs != mine[name]:
            cut = FIRST_DIGITS if name == "fingerprint" else None
            raise CheckpointError(
                f"{path}: its {name} is {theirs[:cut]}, but this model's is {mine[name][:cut]}. {advice}"
            )


def _tokens(path: Path, tokens: Tensor | None, vocabulary_size: int) -> list[int]:
    if tokens is None or tokens.dtype != torch.int32 or tokens.ndim != 1:
        raise CheckpointError(f"{path}: 'tokens' is missing, or is no list of 32-bit integers.")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary_size:
        raise CheckpointError(
            f"{path}: 'tokens' goes from {int(tokens.min())} to {int(tokens.max())}, but the model's ids go "
            f"from 0 to {vocabulary_size - 1}."
        )
    ids: list[int] = tokens.tolist()
    return ids


def _points(
    path: Path, tensors: Mapping[str, Tensor], model: AnyModel | NativeModel, length: int
) -> dict[int, Point]:
    """Return what is remembered by position; every tensor must belong to one, and be what the model needs."""
    blank: State = model.initial_state(1)
    logits = torch.empty(model.config.vocabulary_size, dtype=model.dtype, device="meta")
    needed = {**blank.tensors(), "logits": logits}
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        place, _, part = name.partition(".")
        if part not in needed or not re.fullmatch("0|[1-9][0-9]{0,17}", place) or int(place) > length:
            raise CheckpointError(
                f"{path}: {name[:80]!r} is no part of a state of a text of {length} tokens."
            )
        like = needed[part]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise CheckpointError(
                f"{path}: {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, but the model needs "
                f"{like.dtype} of shape {tuple(like.shape)}."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {name!r} holds values that are not finite.")
        found.setdefault(int(place), {})[part] = tensor.to(model.device, copy=True)
    points = {}
    for position, parts in found.items():
        expected = needed.keys() if position else blank.tensors().keys()
        if parts.keys() != expected:
            raise CheckpointError(
                f"{path}: position {position} has {', '.join(parts)}, but it needs {', '.join(expected)}."
            )
        last = parts.pop("logits", None)
        points[position] = Point(state=type(blank)(**parts), logits=last)
    return points
