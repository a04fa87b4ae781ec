"""What a disk may hold after a loss of power: of what no fsync has vouched for, any part may be missing.

    entry     a change of a folder: a name made, moved or removed; durable once the folder was synced
    content   bytes written to a file; durable once the file was synced

After the method of Pillai et al., "All file systems are not created equal" (OSDI 2014): each prefix of the
recorded calls, with all, none, all but one, or one alone of its changes that are not durable yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ENTRIES = ("create", "mkdir", "rename", "unlink", "rmdir")
CONTENTS = ("write", "truncate")


@dataclass(frozen=True)
class Call:
    """One call that changed something, or made it durable."""

    what: str
    path: str
    other: str = ""
    offset: int = 0
    data: bytes = b""


def read_record(path: Path) -> list[Call]:
    """Read what interposer.c recorded."""
    content, calls = path.read_bytes(), []
    while content:
        line, _, content = content.partition(b"\n")
        what, name, other, offset, size = line.decode().split("\t")
        calls.append(Call(what, name, other, int(offset), content[: int(size)]))
        content = content[int(size) :]
    return calls


@dataclass
class Disk:
    """Folders, and files as numbers whose contents are kept apart, so that they can be renamed."""

    folders: set[str] = field(default_factory=set)
    files: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, name: Path) -> Disk:
        """Read a folder as if it had this name."""
        disk = cls()
        for path in sorted(folder.rglob("*")):
            place = str(name / path.relative_to(folder))
            if path.is_dir():
                disk.folders.add(place)
            else:
                disk.files[place] = len(disk.files)
                disk.contents[disk.files[place]] = path.read_bytes()
        return disk

    def write(self, name: Path, folder: Path) -> None:
        """Write what has this name into a real folder."""
        folder.mkdir(parents=True)
        for place in sorted(self.folders):
            (folder / Path(place).relative_to(name)).mkdir(parents=True, exist_ok=True)
        for place, number in self.files.items():
            path = folder / Path(place).relative_to(name)
            if path.parent.is_dir():
                path.write_bytes(self.contents.get(number, b""))

    def content(self) -> tuple[frozenset[str], frozenset[tuple[str, bytes]]]:
        """Return what can be seen of the disk."""
        files = ((place, self.contents.get(number, b"")) for place, number in self.files.items())
        return frozenset(self.folders), frozenset(files)

    def copy(self) -> Disk:
        """Return a copy."""
        return Disk(set(self.folders), dict(self.files), dict(self.contents))


@dataclass(frozen=True)
class Change:
    """A call, what it is about while it happens (a file's number), and when it is durable."""

    call: Call
    number: int
    durable_from: int  # the number of calls after which it is


def changes_of(before: Disk, calls: Sequence[Call]) -> list[Change]:
    """Follow all calls, and return their changes."""
    disk, found, next_number = before.copy(), [], len(before.files)
    for place, call in enumerate(calls):
        if call.what not in (*ENTRIES, *CONTENTS):
            continue
        if call.what == "create":
            next_number += 1
            number = next_number
        else:
            number = disk.files.get(call.path, -1)
        synced = str(Path(call.path).parent) if call.what in ENTRIES else call.path
        later = [
            after + 1
            for after in range(place + 1, len(calls))
            if calls[after].what == "fsync" and calls[after].path == synced
        ]
        change = Change(call, number, later[0] if later else len(calls) + 1)
        apply(disk, change)
        found.append(change)
    return found


def apply(disk: Disk, change: Change) -> None:
    """Make a change, where what it needs is there."""
    call = change.call
    match call.what:
        case "create":
            disk.files[call.path] = change.number
            disk.contents.setdefault(change.number, b"")
        case "mkdir":
            disk.folders.add(call.path)
        case "truncate":
            disk.contents[change.number] = b""
        case "write":
            content = disk.contents.get(change.number, b"").ljust(call.offset, b"\0")
            disk.contents[change.number] = (
                content[: call.offset] + call.data + content[call.offset + len(call.data) :]
            )
        case "unlink":
            disk.files.pop(call.path, None)
        case "rmdir":
            disk.folders.discard(call.path)
        case "rename":
            _rename(disk, call.path, call.other)


def _rename(disk: Disk, source: str, target: str) -> None:
    if source in disk.files:
        disk.files[target] = disk.files.pop(source)
    if source in disk.folders:
        disk.folders.discard(source)
        disk.folders.add(target)
        inside = source + "/"
        for place in [place for place in disk.files if place.startswith(inside)]:
            disk.files[target + "/" + place[len(inside) :]] = disk.files.pop(place)
        for place in [place for place in disk.folders if place.startswith(inside)]:
            disk.folders.discard(place)
            disk.folders.add(target + "/" + place[len(inside) :])


def after_power_loss(before: Disk, calls: Sequence[Call]) -> Iterator[tuple[int, Disk]]:
    """Yield (how many calls were made, what the disk may hold then); each disk once."""
    changes = changes_of(before, calls)
    places = [place for place, call in enumerate(calls) if call.what in (*ENTRIES, *CONTENTS)]
    seen: set[tuple[frozenset[str], frozenset[tuple[str, bytes]]]] = set()
    for count in reversed(range(len(calls) + 1)):  # the later, the more is promised
        made = [change for place, change in zip(places, changes, strict=True) if place < count]
        loose = [number for number, change in enumerate(made) if change.durable_from > count]
        kept = [set(range(len(made))) - set(loose), set(range(len(made)))]
        kept += [kept[1] - {one} for one in loose] + [kept[0] | {one} for one in loose]
        disks = [_with(before, made, keep) for keep in kept]
        if loose and made[loose[-1]].call.what == "write":
            torn = _with(before, made, kept[1])
            number = made[loose[-1]].number
            torn.contents[number] = torn.contents[number][: len(torn.contents[number]) // 2]
            disks.append(torn)
        for disk in disks:
            if (content := disk.content()) not in seen:
                seen.add(content)
                yield count, disk


def _with(before: Disk, made: Sequence[Change], keep: set[int]) -> Disk:
    disk = before.copy()
    for number, change in enumerate(made):
        if number in keep:
            apply(disk, change)
    return disk
