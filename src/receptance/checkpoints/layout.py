"""Tables that say how another program names and lays out the same weights, read in both directions.

A row says which official weights make up one foreign weight, and by which change. The official names, those
of BlinkDL's `.pth` files, are also those of our modules and of our own files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from receptance.checkpoints.contents import Weight
from receptance.errors import CheckpointError

_LAYER = re.compile(r"(?<=\.)\d{1,9}(?=\.)")


@dataclass(frozen=True)
class Change:
    """How official tensors become one foreign tensor, and back; both ways work without numbers too."""

    to_foreign: Callable[[Sequence[Tensor]], Tensor]
    to_official: Callable[[Tensor], Sequence[Tensor]]

    def then(self, other: Change) -> Change:
        """Return this change, followed by another one of the single tensor that it makes."""
        return Change(
            lambda tensors: other.to_foreign([self.to_foreign(tensors)]),
            lambda tensor: self.to_official(*other.to_official(tensor)),
        )


def each(to_foreign: Callable[[Tensor], Tensor], to_official: Callable[[Tensor], Tensor]) -> Change:
    """Return the change of one tensor into one."""
    return Change(lambda tensors: to_foreign(tensors[0]), lambda tensor: (to_official(tensor),))


def reshaped(foreign: tuple[int, ...], official: tuple[int, ...]) -> Change:
    """Return the change of one shape into another."""
    return each(lambda tensor: tensor.reshape(foreign), lambda tensor: tensor.reshape(official))


def valued(to_foreign: Callable[[Tensor], Tensor], to_official: Callable[[Tensor], Tensor]) -> Change:
    """Return the change of every value for itself, which keeps shape and dtype."""
    return each(_where_there_are_numbers(to_foreign), _where_there_are_numbers(to_official))


def _where_there_are_numbers(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    # Computing on the meta device would make torch import its compiler, which takes a second.
    return lambda tensor: tensor if tensor.is_meta else change(tensor)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    shape = (len(tensors), *tensors[0].shape)
    return tensors[0].new_empty(shape) if tensors[0].is_meta else torch.stack(list(tensors))


SAME = each(lambda tensor: tensor, lambda tensor: tensor)
TRANSPOSED = each(lambda tensor: tensor.mT, lambda tensor: tensor.mT)  # the last two axes
STACKED = Change(_stack, torch.unbind)  # vectors as the rows of a matrix


@dataclass(frozen=True)
class Row:
    """Official weights that are one foreign weight; `{}` in a name stands for the number of the layer."""

    official: str | tuple[str, ...]
    foreign: str
    change: Change = SAME

    @property
    def officials(self) -> tuple[str, ...]:
        """The official names, however many."""
        return (self.official,) if isinstance(self.official, str) else self.official


class Layout:
    """A reversible table. What it does not know keeps its name and its shape, in both directions."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        self._by_official = {name: row for row in self.rows for name in row.officials}
        self._by_foreign = {row.foreign: row for row in self.rows}

    def foreign_name(self, official: str) -> str:
        """Return the foreign name of an official weight, or of what it is a part of."""
        row, layer = _find(self._by_official, official)
        return _fill(row.foreign, layer) if row else official

    def official_name(self, foreign: str) -> str:
        """Return the official name of a foreign weight that is laid out alike; any other keeps its name."""
        row, layer = _find(self._by_foreign, foreign)
        return _fill(row.officials[0], layer) if row and row.change is SAME else foreign

    def to_official(self, path: Path, foreign: Mapping[str, Weight]) -> dict[str, Weight]:
        """Return the official weights that are in a file of the other program.

        Raises CheckpointError, naming the file and the weight, where its shape is impossible.
        """
        official: dict[str, Weight] = {}
        for name, weight in foreign.items():
            row, layer = _find(self._by_foreign, name)
            if row is None:
                official[name] = weight
                continue
            count = len(row.officials)
            try:
                for index, part in enumerate(row.officials):
                    take = partial(_part, row.change, index, count)
                    official[_fill(part, layer)] = weight.map(take)
            except (RuntimeError, ValueError, IndexError) as error:
                reason = str(error).partition("\n")[0]
                raise CheckpointError(f"{path}: {name!r} cannot be {weight.shape}: {reason}") from error
        return official

    def to_foreign(self, official: Mapping[str, Weight]) -> dict[str, Weight]:
        """Return the weights of the other program's file; a row none of whose parts is there is left out."""
        foreign: dict[str, Weight] = {}
        for name, weight in official.items():
            row, layer = _find(self._by_official, name)
            if row is None:
                foreign[name] = weight
            elif (target := _fill(row.foreign, layer)) not in foreign:
                foreign[target] = _joined(
                    [official[_fill(part, layer)] for part in row.officials], row.change
                )
        return foreign


def _part(change: Change, index: int, count: int, tensor: Tensor) -> Tensor:
    parts = change.to_official(tensor)
    if len(parts) != count:
        raise ValueError(f"it holds {len(parts)} weights and not {count}")
    return parts[index]


def _joined(parts: Sequence[Weight], change: Change) -> Weight:
    after = change.to_foreign([part.like() for part in parts])
    return Weight(tuple(after.shape), after.dtype, lambda: change.to_foreign([part.read() for part in parts]))


def _find(rows: Mapping[str, Row], name: str) -> tuple[Row | None, str]:
    """Return the row of a name, and the number of the layer in it; a row may be of one layer alone."""
    if name in rows:
        return rows[name], ""
    layer = _LAYER.search(name)
    return rows.get(_LAYER.sub("{}", name, count=1)), layer.group() if layer else ""


def _fill(pattern: str, layer: str) -> str:
    return pattern.replace("{}", layer, 1)
