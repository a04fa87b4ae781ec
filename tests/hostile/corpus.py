"""What a case is, and the damage that any file can suffer.

A format is one module in `formats/`: how it is read, some small valid files, and attacks of its own. Every
valid file is also cut, flipped and spliced here.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLIPS_PER_FILE = 16


@dataclass(frozen=True)
class Case:
    """Files in an otherwise empty folder, one of them (or the folder) to be read."""

    name: str
    put: Callable[[Path], Path]  # writes them into a folder, and returns the path to read
    loads: bool | None = False  # whether it must load, must be refused, or either will do

    @classmethod
    def of(cls, name: str, files: Mapping[str, bytes], main: str = "", *, loads: bool | None = False) -> Case:
        """Return the case of some plain files; without `main` their folder is read."""

        def put(folder: Path) -> Path:
            for file, content in files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(content)
            return folder / main

        return cls(name, put, loads)


@dataclass(frozen=True)
class Example:
    """Small valid files, and where in them one part ends and the next begins."""

    name: str
    files: Mapping[str, bytes]
    main: str = ""
    borders: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def case(self) -> Case:
        """Return the files as they are."""
        return Case.of(f"{self.name}: whole", self.files, self.main, loads=True)

    def with_file(self, name: str, file: str, content: bytes, *, loads: bool | None = False) -> Case:
        """Return the files with one of them replaced."""
        return Case.of(f"{self.name}: {name}", {**self.files, file: content}, self.main, loads=loads)


@dataclass(frozen=True)
class Format:
    """A kind of file that the package reads."""

    name: str
    read: Callable[[Path], Any]  # reads a path, and looks closely at what came of it
    examples: Callable[[], Sequence[Example]]
    attacks: Callable[[], Iterable[Case]]
    checkpoints: tuple[str, ...] = ()  # formats of checkpoints.formats that it stands for
    is_damaged: bool = True  # at random, beside the attacks

    def cases(self) -> Iterator[Case]:
        """Yield the valid files, the damaged and the hostile ones; always the same."""
        for example in self.examples():
            yield example.case()
            for file in example.files if self.is_damaged else ():
                yield from damaged(example, file)
        yield from self.attacks()


def damaged(example: Example, file: str) -> Iterator[Case]:
    """Yield cases in which one file of an example is cut off, flipped in places, or put together wrongly."""
    content = example.files[file]
    generator = random.Random(f"{example.name} {file}")
    borders = sorted({0, len(content), *(b for b in example.borders.get(file, ()) if 0 < b < len(content))})
    sections = list(itertools.pairwise(borders))
    middles = {(first + last) // 2 for first, last in sections}
    for length in sorted({*borders[:-1], *middles, len(content) - 1}):
        yield example.with_file(f"{file} cut off at {length}", file, content[:length], loads=None)
    flips = {
        (generator.randrange(*sections[number % len(sections)]), generator.randrange(8))
        for number in range(FLIPS_PER_FILE)
    }
    for place, bit in sorted(flips):
        flipped = bytes([content[place] ^ 1 << bit])
        whole = content[:place] + flipped + content[place + 1 :]
        yield example.with_file(f"{file} bit {bit} of byte {place} flipped", file, whole, loads=None)
    for name, spliced in _spliced(content, generator):
        yield example.with_file(f"{file} {name}", file, spliced, loads=None)


def _spliced(content: bytes, generator: random.Random) -> Iterator[tuple[str, bytes]]:
    first, last = sorted(generator.sample(range(len(content) + 1), 2))
    before, piece, after = content[:first], content[first:last], content[last:]
    span = f"bytes {first} to {last}"
    yield f"{span} left out", before + after
    yield f"{span} twice", before + piece + piece + after
    yield f"{span} zeroed", before + bytes(len(piece)) + after
    yield f"{span} set", before + b"\xff" * len(piece) + after
    yield f"{span} random", before + generator.randbytes(len(piece)) + after
    yield f"{span} first", piece + before + after
    yield "after a byte too many", b"\n" + content
    yield "with a byte too many", content + b"\x00"
    yield "with 4 kB too many", content + generator.randbytes(4096)


def _formats() -> tuple[Format, ...]:
    package = importlib.import_module("tests.hostile.formats")
    modules = (
        importlib.import_module(f"{package.__name__}.{m.name}")
        for m in pkgutil.iter_modules(package.__path__)
    )
    return tuple(module.FORMAT for module in modules if hasattr(module, "FORMAT"))


def __getattr__(name: str) -> Any:
    """Find the formats when they are first asked for, since their modules import this one."""
    if name == "FORMATS":
        globals()["FORMATS"] = _formats()
        return globals()["FORMATS"]
    raise AttributeError(name)
