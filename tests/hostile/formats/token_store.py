"""`.bin/.idx` stores of tokens: counts, types, sizes, pointers and borders that do not agree."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from receptance.data import TokenStore, TokenStoreWriter
from receptance.data.indexed import HEADER, MAGIC, TOKEN_TYPES
from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format

BIN, IDX, MASK = "train.bin", "train.idx", "train.mask"
DOCUMENTS = ([1, 2, 3, 0], [4, 0], [], [5, 6, 7, 8, 9, 0])


def read(path: Path) -> object:
    """Open a store and read every document of it."""
    store = TokenStore(path)
    assert sum(len(store.document(number)) for number in range(store.documents)) <= store.tokens
    store.borders(0, store.tokens)
    assert store.mask is None or store.mask.size == store.tokens
    assert int(store.flat.astype("int64").sum()) == sum(int(token) for token in store.flat)
    return store


def examples() -> list[Example]:
    """Stores of both sizes of token that are written."""
    found = []
    for name, vocabulary in (("two bytes", 100), ("four bytes", 100_000)):
        with TemporaryDirectory() as folder:
            with TokenStoreWriter(Path(folder) / "train", vocabulary) as writer:
                for document in DOCUMENTS:
                    writer.append(document)
            files = {file: (Path(folder) / file).read_bytes() for file in (BIN, IDX)}
        count = len(DOCUMENTS)
        borders = [9, 17, 18, 26, 34, 34 + 4 * count, 34 + 12 * count]
        found.append(Example(name, files, "train", {IDX: borders, BIN: [8]}))
    return found


def attacks() -> Iterator[Case]:
    """Every number of the index, replaced."""
    for example in examples():
        index = example.files[IDX]

        def changed(what: str, content: bytes, example: Example = example) -> Case:
            return example.with_file(what, IDX, content)

        for count in values.UNSIGNED:
            packed = struct.pack("<Q", count)
            if count != 1:
                yield changed(f"version {count}", index[:9] + packed + index[17:])
            yield changed(f"{count} sequences", index[:18] + packed + index[26:])
            yield changed(f"{count} borders", index[:26] + packed + index[34:])
        for code in (0, 5, 6, 7, 9, 255):  # the others are as wide as one of the examples
            yield changed(f"type {code}", index[:17] + bytes([code]) + index[18:])
        count = len(DOCUMENTS)
        for place in range(count):
            at = HEADER.size + 4 * place
            for size in (-1, -(2**31), 1000, 2**31 - 1):
                yield changed(
                    f"size {place} is {size}", index[:at] + struct.pack("<i", size) + index[at + 4 :]
                )
        for first, length in ((HEADER.size + 4 * count, count), (HEADER.size + 12 * count, count + 1)):
            for place in (0, 1, length - 1):
                at = first + 8 * place
                for number in (-1, 1, 3, 2**31, 2**62, -(2**63), 2**63 - 1):
                    packed = struct.pack("<q", number)
                    if packed != index[at : at + 8] and (place, number) not in ((1, 1),):
                        yield changed(
                            f"number at byte {at} is {number}", index[:at] + packed + index[at + 8 :]
                        )
        yield changed("magic in capitals", index[:9].lower() + index[9:])
        yield example.with_file("a .bin of one byte more", BIN, example.files[BIN] + b"\0")
        yield example.with_file("a .bin of nothing", BIN, b"")
        yield example.with_file("a .bin that is the .idx", BIN, index)
        for size in (0, 1, 11, 13, 100_000):
            yield example.with_file(f"a mask of {size} bytes", MASK, bytes(size))
        yield example.with_file("a mask of strange bytes", MASK, b"\xff" * 12, loads=True)
    yield from _headers()


def _headers() -> Iterator[Case]:
    for code in TOKEN_TYPES:
        empty = HEADER.pack(MAGIC, 1, code, 0, 1) + bytes(8)
        yield Case.of(f"no document of type {code}", {BIN: b"", IDX: empty}, "train", loads=True)
    no_border = HEADER.pack(MAGIC, 1, 8, 0, 0)
    yield Case.of("no border", {BIN: b"", IDX: no_border}, "train")
    many = HEADER.pack(MAGIC, 1, 8, 0, 50_001) + bytes(8 * 50_001)
    yield Case.of("50,000 empty documents of nothing", {BIN: b"", IDX: many}, "train", loads=None)
    zeros = HEADER.pack(MAGIC, 1, 8, 300_000, 1) + bytes(12 * 300_000 + 8)
    yield Case.of("300,000 empty sequences", {BIN: b"", IDX: zeros}, "train")
    yield Case.of("only a .bin", {BIN: b"ab"}, "train")
    yield Case.of("only an .idx", {IDX: no_border}, "train")
    yield Case.of("a folder", {f"train/{BIN}": b"ab", f"train/{IDX}": no_border}, "train")
    yield Case.of("folders of these names", {f"{BIN}/x": b"", f"{IDX}/x": b""}, "train")
    for name in values.TRAVERSALS[:60]:
        yield Case(f"the prefix {name[:40]!r}", lambda folder, name=name: Path(f"{folder}/none/{name}"))

    def linked(folder: Path) -> Path:
        (folder / BIN).symlink_to("/dev/zero")
        (folder / IDX).symlink_to("/dev/zero")
        (folder / MASK).symlink_to("/dev/zero")
        return folder / "train"

    yield Case("links to /dev/zero", linked)


FORMAT = Format("token store", read, examples, attacks)
