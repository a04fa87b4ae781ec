"""Adapters and tuned states: files of RWKV-PEFT, folders of PEFT, on top of a small model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save
from torch import Tensor

from receptance.checkpoints import Tuning
from receptance.checkpoints.stored_model import StoredModel, from_module
from receptance.checkpoints.tuning import parts, tuned_state
from tests.checkpoints.tuning.adapters import random_lora, random_miss
from tests.checkpoints.tuning.test_tuned_state import random_state, stored
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.models.examples import example

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SETTINGS = ("peft_type", "lora_alpha", "use_rslora", "use_dora", "init_lora_weights", "alpha_pattern", "r")
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (16,), (0, 16), (16, 0), (3, 15), (2, 8, 8), (1,) * 6)
NAMES = (
    "",
    ".",
    "lora_A",
    ".lora_A",
    "..lora_A",
    "\x1b[31m.lora_A",
    "a\nb.lora_A",
    "é" * 99,
    "blocks.99.att.key.lora_A",
    "blocks.-1.att.key.lora_A",
    "blocks.1.att.key.lora_A.lora_A",
    "blocks.1.att.key.lora.0",
    "blocks.1.att.key.lora_magnitude_vector",
    "blocks.1.att.key.bone",
    "emb.lora_embedding_A",
    "blocks.0.ln1.weight",
    "blocks.0.att.time_state",
    "x" * 50_000 + ".lora_A",
    ".weight" * 5_000 + ".lora_A",
    ".lora_A" * 5_000 + "\n",
    "base_model.model." * 3_000,
)


@cache
def base() -> StoredModel:
    """Return the model that everything goes on top of."""
    return from_module(example("7", torch.float32))


def read(path: Path) -> object:
    """Put what is there on top of the model, and run it."""
    if "state" in path.name:
        tuned = Tuning(state=path).applied(base()).tuned_state
        state = tuned_state.as_state(tuned, base().config, example("7", torch.float32).initial_state(1))
        assert torch.isfinite(state.wkv).all()
        return state
    alpha = 2.0 if path.name in ("lora.pth", "lora.safetensors") else None
    model = Tuning(lora=path, lora_alpha=alpha).applied(base())
    for name, weight in model.weights.items():
        tensor = weight.read()
        assert torch.isfinite(tensor).all()
        assert tensor.shape == base().weights[name].shape
    return model


def _pth(tensors: dict[str, Tensor]) -> bytes:
    with TemporaryDirectory() as folder:
        torch.save(tensors, Path(folder) / "part.pth")
        return (Path(folder) / "part.pth").read_bytes()


@cache
def _folder() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        torch.save(random_lora(example("7")), Path(folder) / "lora.pth")
        parts.convert(Path(folder) / "lora.pth", Path(folder) / "peft", lora_alpha=4.0)
        return {name: (Path(folder) / "peft" / name).read_bytes() for name in (CONFIG, WEIGHTS)}


def _state() -> dict[str, Tensor]:
    model = example("7", torch.float32)
    return stored(model, random_state(model))


def examples() -> list[Example]:
    """A LoRA, a MiSS and a state in a file, and a LoRA in a folder."""
    lora, miss = random_lora(example("7")), random_miss(example("7"))
    return [
        Example("LoRA", {"lora.pth": _pth(lora)}, "lora.pth"),
        Example("LoRA, safetensors", {"lora.safetensors": save(lora)}, "lora.safetensors"),
        Example("MiSS", {"miss.pth": _pth(miss)}, "miss.pth"),
        Example("PEFT", _folder()),
        Example("state", {"state.pth": _pth(_state())}, "state.pth"),
        Example("state, safetensors", {"state.safetensors": save(_state())}, "state.safetensors"),
    ]


def attacks() -> Iterator[Case]:
    """Tensors with other shapes and names, settings of other types, and what is no JSON."""
    lora = random_lora(example("7"))
    for title, file, tensors in (
        ("LoRA", "lora.safetensors", lora),
        ("MiSS", "miss.safetensors", random_miss(example("7"))),
        ("state", "state.safetensors", _state()),
    ):
        name = list(tensors)[1]
        for shape in SHAPES:
            yield _case(f"{title} with {shape}", file, tensors | {name: torch.zeros(shape)})
        for dtype in (torch.int64, torch.bool, torch.uint8):
            yield _case(f"{title} of {dtype}", file, tensors | {name: tensors[name].to(dtype)})
        for value in (torch.nan, torch.inf, -torch.inf):
            yield _case(f"{title} of {value}", file, tensors | {name: torch.full_like(tensors[name], value)})
        fewer = {key: tensor for key, tensor in tensors.items() if key != name}
        yield _case(f"{title} without one", file, fewer, loads=None)  # MiSS may be of some layers only
        yield _case(f"{title} without any", file, {})
        for stranger in NAMES:
            yield _case(f"{title} and {stranger[:40]!r}", file, tensors | {stranger: torch.zeros(3, 16)})
    for name, text, loads in values.json_texts():
        yield Case.of(f"{CONFIG} is {name}", {**_folder(), CONFIG: text}, loads=loads)
    settings = json.loads(_folder()[CONFIG])
    for key in SETTINGS:
        for value in (*values.NOT_NUMBERS, *values.COUNTS):
            text = json.dumps({**settings, key: value}).encode()
            yield Case.of(f"{key} is {value!r}", {**_folder(), CONFIG: text}, loads=None)
    for missing in (CONFIG, WEIGHTS):
        files = {name: content for name, content in _folder().items() if name != missing}
        yield Case.of(f"without {missing}", files, loads=False)


def _case(name: str, file: str, tensors: dict[str, Tensor], *, loads: bool | None = False) -> Case:
    return Case.of(name, {file: save(tensors)}, file, loads=loads)


FORMAT = Format("adapters", read, examples, attacks, ("peft",))
