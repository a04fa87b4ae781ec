"""Which implementation of an operator serves a call.

Each operator has several, the fastest first and the reference last. Without a word from the caller the first
that does not refuse the call serves it; one that is asked for by name serves it or says why it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

from receptance.errors import KernelError

Function_co = TypeVar("Function_co", bound=Callable[..., object], covariant=True)
Refuses = Callable[..., str | None]


def nothing(*_: object) -> None:
    """Refuse no call."""


@dataclass(frozen=True)
class Implementation(Generic[Function_co]):
    """One way to compute an operator."""

    name: str
    function: Function_co
    refuses: Refuses = nothing  # given the arguments of a call: why it cannot serve them, or None
    missing: Refuses = nothing  # given nothing: why it cannot serve any call on this machine, or None


@dataclass(frozen=True)
class Operator(Generic[Function_co]):
    """An operator and its implementations, the fastest first."""

    name: str
    implementations: tuple[Implementation[Function_co], ...]

    def __post_init__(self) -> None:
        _OPERATORS[self.name] = self

    def choose(self, *arguments: object) -> Implementation[Function_co]:
        """Return the implementation that `use` asks for here, else the first that takes the call.

        Raises KernelError when the one asked for cannot serve the call.
        """
        name = _choices.get().get(self.name)
        for implementation in self.implementations:
            if name not in (None, implementation.name):
                continue
            reason = implementation.missing() or implementation.refuses(*arguments)
            if reason is None:
                return implementation
            if name is not None:
                raise KernelError(f"{self.name}: implementation {name!r} cannot serve this call: {reason}")
        raise KernelError(f"{self.name}: no implementation can serve this call")

    def names(self) -> list[str]:
        """Return the names of all implementations, the fastest first."""
        return [implementation.name for implementation in self.implementations]


@dataclass(frozen=True)
class Row:
    """One line of the table that `receptance info` prints."""

    operator: str
    implementation: str
    unavailable: str | None  # why it cannot be used on this machine


_OPERATORS: dict[str, Operator[Callable[..., object]]] = {}
_choices: ContextVar[Mapping[str, str]] = ContextVar("choices", default={})  # noqa: B039  never written to


def operator(name: str) -> Operator[Callable[..., object]]:
    """Return the operator of this name.

    Raises KernelError when there is none.
    """
    if name not in _OPERATORS:
        raise KernelError(f"no operator is called {name!r}; there are {', '.join(_OPERATORS)}")
    return _OPERATORS[name]


@contextmanager
def use(**choices: str) -> Iterator[None]:
    """Serve these operators by these implementations inside the block.

    Example: `with use(wkv4="reference"): y, sums = wkv4(k, v, w, u, sums)`. The choice holds for the current
    thread or task. Raises KernelError for a name that does not exist; a call that the chosen implementation
    cannot serve raises it too, and is never passed on to another one.
    """
    for served, name in choices.items():
        names = operator(served).names()
        if name not in names:
            raise KernelError(f"{served}: no implementation is called {name!r}; there are {', '.join(names)}")
    token = _choices.set({**_choices.get(), **choices})
    try:
        yield
    finally:
        _choices.reset(token)


def available(name: str) -> list[str]:
    """Return the names of the implementations that this machine can run, the fastest first.

    Raises KernelError for an operator that does not exist.
    """
    return [row.name for row in operator(name).implementations if row.missing() is None]


def implementations() -> list[Row]:
    """Return every implementation of every operator, and whether this machine can run it."""
    return [
        Row(each.name, implementation.name, implementation.missing())
        for each in _OPERATORS.values()
        for implementation in each.implementations
    ]
