"""Official `.pth` files: a zip archive, and in it a pickle, either of which may lie."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator

from tests.hostile import values
from tests.hostile.corpus import Case, Example, Format
from tests.hostile.formats.safetensors import read
from tests.hostile.formats.torch_pickle import FILE, archive, case, members, official, pickles

CENTRAL, END = b"PK\x01\x02", b"PK\x05\x06"


def borders(content: bytes) -> list[int]:
    """Return where records begin, and where the directory and its end do."""
    with zipfile.ZipFile(io.BytesIO(content)) as reader:
        starts = [member.header_offset for member in reader.infolist()]
        return [*starts[:4], starts[-1], reader.start_dir, content.rindex(END)]


def examples() -> list[Example]:
    """Two generations."""
    return [
        Example(
            f"RWKV-{generation}", {FILE: official(generation)}, FILE, {FILE: borders(official(generation))}
        )
        for generation in ("4", "7")
    ]


def attacks() -> Iterator[Case]:
    """Bad pickles, and archives that are not what they seem."""
    yield from pickles()
    yield from _archives()
    yield from _directories()


def _archives() -> Iterator[Case]:
    """Archives that torch did not write."""
    good = members(official())
    root = next(iter(good)).partition("/")[0]
    yield case("a deflated archive", archive(good, zipfile.ZIP_DEFLATED))
    yield case("an archive by bzip2", archive(good, zipfile.ZIP_BZIP2))
    yield case("an archive by lzma", archive(good, zipfile.ZIP_LZMA))
    bomb = {**good, f"{root}/data/0": bytes(50_000_000)}
    yield case("a deflated bomb", archive(bomb, zipfile.ZIP_DEFLATED))
    for name in good:
        rest = {n: r for n, r in good.items() if n != name}
        essential = name.endswith(("data.pkl", "data/0", "data/3"))
        if essential or "/data/" not in name:
            yield case(f"without {name}", archive(rest), loads=False if essential else None)
    for extra in ("constants.pkl", "code/__torch__.py", "data.pkl", "data/0", "version", "extra/x"):
        changed = {**good, f"{root}x/{extra}": b"x"}
        yield case(f"with {extra} in another root", archive(changed), loads=None)
        yield case(f"with {extra} added", archive({**good, f"{root}/{extra}": b"\x80\x02}."}), loads=None)
    for order in (b"big", b"middle", b"", b"little\n", b"x" * 100_000, b"\xff"):
        changed = {**good, f"{root}/byteorder": order}
        yield case(f"byte order {order[:10]!r}", archive(changed), loads=None)
    for record in ("version", ".format_version", ".storage_alignment", ".data/serialization_id"):
        for content in (b"", b"-1", b"99999999999999999999", b"\xff" * 10, b"0", b"64" * 10_000):
            changed = {**good, f"{root}/{record}": content}
            yield case(f"{record} of {content[:10]!r}", archive(changed), loads=None)
    for name in values.TRAVERSALS[:30]:
        yield case(f"with a record {name!r}", archive({**good, name.replace("\x00", ""): b"x"}), loads=None)
    renamed = {f"{values.OUTSIDE}/../{name}": record for name, record in good.items()}
    yield case("with a root that climbs", archive(renamed), loads=None)
    yield case("with an absolute root", archive({f"/{n}": r for n, r in good.items()}), loads=None)
    yield case("with no root", archive({n.partition("/")[2]: r for n, r in good.items()}), loads=None)
    yield case(
        "with 20,000 records", archive({**good, **{f"{root}/{i}": b"" for i in range(20_000)}}), loads=None
    )
    yield case(
        "with 20,000 folders", archive({**good, **{f"{root}/{i}/": b"" for i in range(20_000)}}), loads=None
    )
    yield case("with 150,000 records", _many_records(150_000))
    yield case("an archive in an archive", archive({"a.pth": official()}))
    yield case("an archive of nothing", archive({}))
    yield case("behind another file", b"#!/bin/sh\n" + official(), loads=None)
    yield case("behind a pickle", pickle.dumps({}) + official())
    yield case("with a comment", _with_end(official(), comment=b"x" * 65_535), loads=None)


def _many_records(count: int) -> bytes:
    """Return an archive whose directory names one record many times."""
    content = archive({"a/data.pkl": b"\x80\x02}."})
    start = content.index(CENTRAL)
    entry = content[start : content.rindex(END)]
    whole = content[:start] + entry * count + content[content.rindex(END) :]
    return _with_end(whole, size=len(entry) * count, here=count & 0xFFFF, total=count & 0xFFFF)


def _with_end(content: bytes, comment: bytes = b"", **fields: int) -> bytes:
    """Return an archive with another end of its directory."""
    place = content.rindex(END)
    names = ("disk", "start_disk", "here", "total", "size", "offset")
    old = dict(zip(names, struct.unpack_from("<4H2I", content, place + 4), strict=True))
    packed = struct.pack("<4H2I", *(old | fields).values())
    return content[: place + 4] + packed + struct.pack("<H", len(comment)) + comment


def _with_fields(content: bytes, signature: bytes, which: int, **fields: int) -> bytes:
    """Return an archive with other fields in one header, that of the directory or that of a record."""
    skip = 2 if signature == CENTRAL else 0
    names = ("needed", "flags", "method", "time", "date", "crc", "packed", "size", "name", "extra")
    place = -1
    for _ in range(which + 1):
        place = content.index(signature, place + 1)
    old = dict(zip(names, struct.unpack_from("<5H3I2H", content, place + 4 + skip), strict=True))
    out = bytearray(content)
    struct.pack_into("<5H3I2H", out, place + 4 + skip, *(old | fields).values())
    return bytes(out)


def _directories() -> Iterator[Case]:
    """Lies of the directory and of the headers of records, where readers of archives disagree."""
    content = archive(members(official()))  # without the padding of torch
    for field in ("here", "total", "disk", "start_disk"):
        for count in (0, 1, 3, 0xFFFE, 0xFFFF):
            yield case(f"{field} {count} at the end", _with_end(content, **{field: count}), loads=None)
    for field in ("size", "offset"):
        for count in (0, 1, len(content), 2**31, 2**32 - 1):
            yield case(f"directory {field} {count}", _with_end(content, **{field: count}), loads=None)
    lies: list[tuple[str, int]] = [("size", n) for n in (0, 1, 2**31, 2**32 - 1)]
    lies += [("packed", n) for n in (0, 1, 2**31, 2**32 - 1)]
    lies += [("name", n) for n in (0, 1, 65_535)] + [("extra", n) for n in (1, 65_535)]
    lies += [("flags", n) for n in (1, 8, 0x41, 0x800, 0xFFFF)] + [("method", n) for n in (8, 12, 93, 99)]
    lies += [("crc", 0), ("needed", 99), ("date", 0xFFFF), ("time", 0xFFFF)]
    for signature, where in ((CENTRAL, "the directory"), (b"PK\x03\x04", "a record")):
        for which in (0, 3):
            for field, value in lies:
                changed = _with_fields(content, signature, which, **{field: value})
                yield case(f"{field} {value} in {where}, entry {which}", changed, loads=None)
    for offset in (0, 1, len(content) - 10, len(content), 2**31, 2**32 - 1):
        for which in (0, 3):
            place = _find(content, CENTRAL, which) + 42
            moved = content[:place] + struct.pack("<I", offset) + content[place + 4 :]
            yield case(f"entry {which} begins at {offset}", moved, loads=None)
    two = content + b"".join(official()[official().rindex(END) :] for _ in range(2))
    yield case("three ends", two, loads=None)
    zip64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2**40, 2**40, 2**62, 2**62)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, content.rindex(END), 1)
    end = content.rindex(END)
    big = _with_end(content, here=0xFFFF, total=0xFFFF, size=2**32 - 1, offset=2**32 - 1)
    yield case("a large directory that lies", content[:end] + zip64 + locator + big[end:])


def _find(content: bytes, signature: bytes, which: int) -> int:
    place: int = -1
    for _ in range(which + 1):
        place = content.index(signature, place + 1)
    return place


FORMAT = Format("torch archive", read, examples, attacks, ("pth",))
