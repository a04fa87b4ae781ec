"""Zip files: read as the folder that is packed in them, and damaged ones named."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receptance.data import open_split, prepare
from receptance.data.sources import Sources
from receptance.errors import DataError


def texts_of(*paths: Path, **options: object) -> list[str]:
    return [document.text for document in Sources(paths, **options)]  # type: ignore[arg-type] - as given


def pack(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


FILES = {
    "z.txt": b"z",
    "b.jsonl": lines("b1", "b2"),
    "note.md": b"a note",
    "lib/c.txt": b"c",
    "lib/deep/d.json": b'[{"text": "d1"}, {"text": "d2"}]',
    "a/e.txt": b"e",
    "a.txt": b"a",
    ".hidden/f.txt": b"f",
    "__MACOSX/._a.txt": b"\x00\x05\x16\x07",
}
names = st.text("ab.-é", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))


@pytest.mark.parametrize(
    "options", [{}, {"include": ["*.md", "lib/*"]}, {"exclude": ["lib"]}, {"exclude": ["deep", "*.jsonl"]}]
)
def test_a_zip_is_read_as_the_folder_in_it(tmp_path: Path, options: dict[str, object]) -> None:
    archive = pack(tmp_path / "packed.zip", FILES)
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "folder")
    assert texts_of(archive, **options) == texts_of(tmp_path / "folder", **options) != []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.sets(st.lists(names, min_size=1, max_size=3).map("/".join), min_size=2, max_size=8))
def test_any_names_come_in_the_order_of_a_folder(tmp_path: Path, paths: set[str]) -> None:
    files = {f"{path}.txt": path.encode() for path in sorted(paths, key=hash)} | {
        "x.txt": b"x",
        "y.txt": b"y",
    }
    shutil.rmtree(tmp_path / "folder", ignore_errors=True)
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    assert texts_of(pack(tmp_path / "a.zip", files)) == texts_of(tmp_path / "folder")


def test_a_zip_in_a_folder_is_a_folder_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    pack(folder / "m.zip", {"inner/b.txt": b"b", "a.txt": b"a", "picture.png": b"\x89"})
    pack(folder / "pictures.ZIP", {"picture.png": b"\x89"})
    (folder / "a.txt").write_bytes(b"first")
    (folder / "z.txt").write_bytes(b"last")
    assert texts_of(folder) == ["first", "a", "b", "last"]
    assert texts_of(folder, exclude=["m.zip/inner"]) == ["first", "a", "last"]
    assert texts_of(folder, exclude=["*.zip"]) == ["first", "last"]


@pytest.mark.parametrize("others", [{}, {"__MACOSX/._enwik": b"\xff"}, {"folder/": b""}])
def test_a_file_packed_alone_is_read_whatever_its_name(tmp_path: Path, others: dict[str, bytes]) -> None:
    assert texts_of(pack(tmp_path / "enwik.zip", {"enwik": b"some text", **others})) == ["some text"]


def test_a_zip_without_texts_says_what_it_has(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a.py": b"", "b.py": b""})
    with pytest.raises(DataError, match=r"a\.zip has no file to read: .*found 2 with \.py.*--include"):
        texts_of(archive)
    with pytest.raises(DataError, match=r"b\.zip has no file to read: .*found none"):
        texts_of(pack(tmp_path / "b.zip", {}))


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs the program zip")
def test_what_the_program_zip_packs_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text(f"text {number}\n" * 100)
    subprocess.run(["zip", "-qr", "../a.zip", "."], cwd=tmp_path / "in", check=True)
    assert texts_of(tmp_path / "a.zip") == texts_of(tmp_path / "in")


@pytest.mark.parametrize("processes", [1, 2])
def test_parquet_and_lines_in_a_zip_give_the_tokens_of_the_files(tmp_path: Path, processes: int) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = [{"text": f"row {i} " * 5} for i in range(200)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "b.parquet", row_group_size=50)
    (folder / "a.jsonl").write_bytes(lines(*(f"line {i}" for i in range(100))))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for source, out in ((folder, "of-folder"), (pack(tmp_path / "a.zip", files), "of-zip")):
        prepare(source, tmp_path / out, tokenizer="bytes", processes=processes)
    assert open_split(tmp_path / "of-zip", "train").documents == 297
    for name in ("train.bin", "train.idx", "validation.bin", "validation.idx"):
        assert (tmp_path / "of-zip" / name).read_bytes() == (tmp_path / "of-folder" / name).read_bytes()


def test_progress_counts_the_packed_bytes(tmp_path: Path) -> None:
    words = random.Random(0)
    many = lines(*(f"{words.random()}" * 20 for _ in range(30_000)))
    archive = pack(tmp_path / "a.zip", {"a.jsonl": many, "b.txt": b"b" * 1000})
    with zipfile.ZipFile(archive) as file:
        size = sum(member.compress_size for member in file.infolist())
    sources = Sources([archive])
    assert sources.bytes_to_read() == size
    seen = [sources.bytes_read for _ in sources]
    assert len(set(seen)) > 2  # it is read in several chunks
    assert seen == sorted(seen)
    assert sources.bytes_read == size


@pytest.mark.parametrize("name", ["../up.txt", "/absolute.txt", "a/../../b.txt", "c:\\d.txt", "\x1b[2J.txt"])
def test_no_name_leads_out_of_the_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / "up.txt").write_bytes(b"outside")
    (tmp_path / "in").mkdir()
    archive = pack(tmp_path / "in" / "a.zip", {name: b"inside", "x.txt": b"x", "y.txt": b"y"})
    before = sorted(tmp_path.rglob("*"))
    found = texts_of(archive)
    assert sorted(found) in (["inside", "x", "y"], ["x", "y"])
    assert (".." in name) == ("inside" not in found)
    assert sorted(tmp_path.rglob("*")) == before


def test_of_two_members_of_one_name_the_last_counts_as_when_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.txt", "first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a.txt", "second")
    assert texts_of(tmp_path / "a.zip") == ["second"]


def _encrypted(content: bytearray) -> None:
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1


def _of_method_12(content: bytearray) -> None:
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = content.index(mark) + offset
        content[place : place + 2] = struct.pack("<H", 12)


def _flipped(content: bytearray) -> None:
    content[60] ^= 0x10


def _cut_off(content: bytearray) -> None:
    del content[len(content) // 2 :]


def _overlapping(content: bytearray) -> None:
    """Let the directory say of its first member that it is as long as the whole archive."""
    place = content.index(b"PK\x01\x02")
    content[place + 20 : place + 24] = struct.pack("<I", len(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_encrypted, r"a\.zip/a\.txt: is encrypted\. Unpack .*a\.zip with its password"),
        (_of_method_12, r"a\.zip/a\.txt: is packed by method 12, .* Unpack .*a\.zip first"),
        (_flipped, r"a\.zip/a\.txt: cannot be read: "),
        (_cut_off, r"a\.zip: cannot be read as zip: "),
        (_overlapping, r"a\.zip: cannot be read as zip: its members lie over each other"),
        (bytearray.clear, r"a\.zip: cannot be read as zip: "),
    ],
)
def test_a_damaged_zip_or_member_is_named(
    tmp_path: Path, damage: Callable[[bytearray], None], message: str
) -> None:
    content = bytearray(
        pack(tmp_path / "a.zip", {"a.txt": os.urandom(500).hex().encode(), "b.txt": b"b"}).read_bytes()
    )
    damage(content)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts_of(tmp_path / "a.zip")


def test_a_parquet_file_damaged_in_a_zip_is_named_by_its_checksum(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist([{"text": f"row {i}"} for i in range(100)])
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet", compression="none")
    files = {"a.parquet": (tmp_path / "a.parquet").read_bytes(), "b.txt": b"b"}
    content = bytearray(pack(tmp_path / "a.zip", files, zipfile.ZIP_STORED).read_bytes())
    content[content.index(b"row 50")] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip/a\.parquet: cannot be read: Bad CRC-32"):
        texts_of(tmp_path / "a.zip")


def test_a_zip_in_a_zip_is_not_opened(tmp_path: Path) -> None:
    inner = pack(tmp_path / "b.zip", {"a.txt": b"a"}).read_bytes()
    with pytest.raises(
        DataError, match=r"a\.zip/b\.zip: is a zip file within another\. Unpack .*a\.zip first"
    ):
        texts_of(pack(tmp_path / "a.zip", {"b.zip": inner}))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_member_that_unpacks_to_far_more_than_text_does_is_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    archive = pack(tmp_path / "a.zip", {name: b'{"text": "' + b" " * 20_000_000 + b'"}'})
    with pytest.raises(DataError, match=rf"a\.zip/{name}(:1)?: .* unpacks to more than 16,777,216 bytes"):
        texts_of(archive)
