"""What the pickle in a `.pth` file says, followed by an interpreter that can do nothing else.

A pickle is a program for a machine with a stack. Here is that machine, with the few instructions of protocol
2 that `torch.save` writes for tensors in containers (docs.python.org/3/library/pickletools.html). It imports
nothing and calls nothing: what would make a tensor makes a `Place`, and all else that the program wants to
import is an error. Time and memory are bounded by its length.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

from receptance.errors import CheckpointError

_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
_DICT, _TENSOR, _PARAMETER = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
_CONSTANTS: dict[bytes, object] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_MOST_AT_ONCE = 10_000  # values on the stack; pickles of tensors come in batches of 1,000


@dataclass(frozen=True)
class Name:
    """What the pickle would import, and nobody here does; it is one of those above."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A record of numbers, as the pickle has it: nothing says that it is so."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class Place:
    """A tensor, and where the pickle says that its numbers are; offset and strides count numbers."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def is_within(self) -> bool:
        """Whether every number of it is one of the storage's."""
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or not all(0 <= number < 2**40 for number in numbers):
            return False
        if math.prod(max(1, n) for n in self.size) >= 2**48:  # also where another axis is 0
            return False
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return 0 in self.size or last < self.storage.count


def read(path: Path, program: bytes) -> object:
    """Return what the pickle stands for, in plain containers, with a `Place` for each tensor.

    Raises CheckpointError, naming the byte or the call, where it is damaged or wants anything else.
    """
    machine = _Machine(path, program)
    try:
        return machine.run()
    except (LookupError, TypeError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path}: byte {machine.position:,} of its pickle is damaged, or no torch wrote it "
            f"({type(error).__name__}: {error}). Nothing in it was executed."
        ) from error


class _Machine:
    def __init__(self, path: Path, program: bytes) -> None:
        self._path, self._program = path, program
        self.position = 0
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        while (step := self._take(1)) != b".":
            if step in _NUMBERS:
                self._stack.append(self._number(_NUMBERS[step]))
            elif step in _CONSTANTS:
                self._stack.append(_CONSTANTS[step])
            elif step in _TUPLES:
                self._stack.append(tuple(self._pop_from(len(self._stack) - _TUPLES[step])))
            else:
                self._follow(step)
            if len(self._stack) > _MOST_AT_ONCE or len(self._marks) > _MOST_AT_ONCE:
                raise ValueError(f"more than {_MOST_AT_ONCE:,} values at once")
        return self._stack.pop()

    def _follow(self, step: bytes) -> None:
        """Carry out one instruction that does more than to push a value."""
        stack = self._stack
        match step:
            case b"q":
                self._memo[self._number("<B")] = stack[-1]
            case b"r":
                self._memo[self._number("<I")] = stack[-1]
            case b"h":
                stack.append(self._memo[self._number("<B")])
            case b"j":
                stack.append(self._memo[self._number("<I")])
            case b"X":
                stack.append(self._take(self._number("<I")).decode())
            case b"(":
                self._marks.append(len(stack))
            case b"t":
                stack.append(tuple(self._pop_from(self._marks.pop())))
            case b"Q":
                stack.append(self._storage(stack.pop()))
            case b"R":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case b"c":
                stack.append(self._name(f"{self._line()}.{self._line()}"))
            case b"}":
                stack.append({})
            case b"]":
                stack.append([])
            case b"s":
                self._set(self._pop_from(len(stack) - 2))
            case b"u":
                self._set(self._pop_from(self._marks.pop()))
            case b"a":
                self._extend(self._pop_from(len(stack) - 1))
            case b"e":
                self._extend(self._pop_from(self._marks.pop()))
            case b"b":  # attributes of a dict, such as the versions of modules: no tensor depends on them
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise TypeError(f"attributes of a {_kind(stack[-1])}")
            case b"\x8a":
                stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))
            case b"\x80":
                if (protocol := self._number("<B")) != 2:
                    raise ValueError(f"protocol {protocol}, not 2")
            case _:
                raise ValueError(f"unknown instruction {step!r}")

    def _take(self, count: int) -> bytes:
        begin, end = self.position, self.position + count
        if end > len(self._program):
            raise ValueError("it ends too early")
        self.position = end
        return self._program[begin:end]

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return number  # type: ignore[no-any-return]  # a float for "d", which only pushes it

    def _line(self) -> str:
        return self._take(self._program.index(b"\n", self.position) + 1 - self.position)[:-1].decode()

    def _pop_from(self, place: int) -> list[object]:
        if not (self._marks[-1] if self._marks else 0) <= place <= len(self._stack):
            raise IndexError("the stack holds less")
        values = self._stack[place:]
        del self._stack[place:]
        return values

    def _set(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise TypeError(f"items of a {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | None):  # hashing others may take for ever
                raise TypeError(f"a {_kind(key)} as a key")
            target[key] = value

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError(f"items of a {_kind(target)}")
        target.extend(items)

    def _name(self, text: str) -> Name:
        if text not in (_DICT, _TENSOR, _PARAMETER, *_DTYPES):
            raise CheckpointError(
                f"{self._path}: its pickle wants more than tensors; nothing in it was executed. It would "
                f"import {text!r}, but a model is a flat dict of plain tensors: save its state_dict() alone."
            )
        return Name(text)

    def _storage(self, identity: object) -> Storage:
        match identity:
            case ("storage", Name(kind), str(key), str(), int(count)) if kind in _DTYPES and count >= 0:
                return Storage(key, _DTYPES[kind], count)
        raise TypeError("a tensor without numbers")

    def _call(self, function: object, arguments: object) -> object:
        match function, arguments:
            case Name(text), () if text == _DICT:
                return {}
            case Name(text), (Place() as place, bool(), _) if text == _PARAMETER:
                return place
            case Name(text), (Storage() as storage, int(offset), size, stride, bool(), _) if text == _TENSOR:
                return Place(storage, offset, _integers(size), _integers(stride))
        raise TypeError(f"a call of a {_kind(function)}")


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int for value in values):
        raise TypeError("sizes that are no numbers")
    return values


def _kind(value: object) -> str:
    return "Tensor" if isinstance(value, Place) else type(value).__name__
