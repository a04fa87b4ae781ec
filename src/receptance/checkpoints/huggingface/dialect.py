"""How a program words a model in a folder of transformers: its `config.json`, and its names of the weights.

A further program is one more `Dialect`, and one more entry in the tables of `folder`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from receptance.checkpoints.layout import SAME, Change, Layout, Row, each
from receptance.errors import CheckpointError

Settings = Mapping[str, object]  # what is in config.json

LAYER_NORM_EPSILON = 1e-5  # of RWKV-5, 6 and 7; their configs have no field for it

# Vectors that other programs keep as [1, 1, channel], as official files do.
PADDED = each(lambda tensor: tensor.reshape(1, 1, -1), lambda tensor: tensor)


def _nothing(_: object) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A program's way to write down one generation.

    Any is the config of that generation.
    """

    program: str
    generation: str
    format: str = "transformers"  # one of the names in `writers`
    model_type: str  # in config.json
    sign: re.Pattern[str]  # is found in a name of every model in this dialect
    layout: Callable[[Settings], Layout]
    fields: Mapping[str, str]  # key of config.json -> the field of our config that says the same
    needed: Settings = field(default_factory=dict)  # the only values that our models compute with
    derived: Callable[[Settings], dict[str, object]] = _nothing  # fields that are said in other words
    # What config.json is to say about a config and a number format, or ConfigError; None: is not written.
    settings: Callable[[Any, str], dict[str, object]] | None = None
    # Shapes of weights that the program wants but nobody reads, by official name.
    unread: Callable[[Any], Mapping[str, tuple[int, ...]]] = _nothing

    def is_spoken(self, names: Collection[str]) -> bool:
        """Say whether tensors of these names are in this dialect."""
        return any(self.sign.search(name) for name in names)

    def understood(self, path: Path, settings: Settings) -> dict[str, object]:
        """Return what `config.json` says about the fields of our config; null says nothing.

        Raises CheckpointError where it asks for a function that our models do not compute.
        """
        for key, needed in self.needed.items():
            value = settings.get(key)
            if value is not None and value != needed:
                raise CheckpointError(
                    f"{path}: {key} is {_shown(value)}, but receptance computes RWKV-{self.generation} only "
                    f"with {needed!r}."
                )
        said = {
            ours: settings[theirs] for theirs, ours in self.fields.items() if settings.get(theirs) is not None
        }
        return said | self.derived(settings)

    def sizes(self, config: object) -> dict[str, Any]:
        """Return the keys of `config.json` that say the same as fields of our config, and their values."""
        return {theirs: getattr(config, ours) for theirs, ours in self.fields.items()}


def rows(
    ours: str, theirs: str, names: Iterable[str] | Mapping[str, str], change: Change = SAME
) -> tuple[Row, ...]:
    """Return the rows of names that begin alike; those that are no mapping also end alike."""
    pairs = names.items() if isinstance(names, Mapping) else ((name, name) for name in names)
    return tuple(Row(ours + a, theirs + b, change) for a, b in pairs)


def whole_number(settings: Settings, key: str, default: int) -> int:
    """Return a setting that counts something, or the default where it is none.

    Whether it is right shows in the comparison with the tensors.
    """
    value = settings.get(key)
    return value if type(value) is int and 0 < value < 1 << 31 else default


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
