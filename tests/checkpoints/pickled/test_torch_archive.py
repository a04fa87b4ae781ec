"""The archive of a `.pth` file is believed only where its directory, its records and its size agree."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch

from receptance.checkpoints.pickled import torch_archive
from receptance.errors import CheckpointError

# Where these fields lie in an entry of the directory of a zip archive.
FIELDS = {
    "flags": ("<H", 8),
    "method": ("<H", 10),
    "packed": ("<I", 20),
    "size": ("<I", 24),
    "offset": ("<I", 42),
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(100.0), "b": torch.zeros(3)}, tmp_path / "archive.pth")
    return tmp_path / "archive.pth"


def change_entry(path: Path, name: str, **fields: int) -> None:
    """Change what the directory at the end of the archive says about one record."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.start_dir
    while content[place + 46 :].split(b"PK", 1)[0].find(name.encode()) != len("archive/"):
        place = content.index(b"PK\x01\x02", place + 1)
    for field, value in fields.items():
        form, offset = FIELDS[field]
        struct.pack_into(form, content, place + offset, value)
    path.write_bytes(content)


def test_records_of_numbers_are_found_where_they_are(archive: Path) -> None:
    records = torch_archive.read_records(archive)
    assert [(record.name, record.num_bytes) for record in records] == [("data/0", 400), ("data/1", 12)]
    content = archive.read_bytes()
    assert content[records[0].begin : records[0].end] == torch.arange(100.0).numpy().tobytes()


def test_a_directory_beyond_reason_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for number in range(20_000):
            archive.writestr(f"archive/{number}", b"")
    with pytest.raises(
        CheckpointError, match=r"directory of the zip archive is damaged: it has .* but of no model"
    ):
        torch_archive.read_records(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("data/0", {"method": 8}, "'archive/data/0' is compressed"),
        ("data.pkl", {"size": 2**31}, r"'archive/data\.pkl' is compressed"),
        ("data/0", {"size": 2000, "packed": 2000}, "'data/0' ends at byte .* room for it only up to byte"),
        ("data/1", {"size": 2**31, "packed": 2**31}, "'data/1' ends at byte"),
        ("data/0", {"offset": 7}, "'archive/data/0' does not begin at byte 7"),
        ("data/0", {"offset": 2**31}, "'archive/data/0' does not begin at byte"),
        ("data/1", {"offset": 0}, "ends at byte"),
    ],
)
def test_a_directory_that_lies_is_refused(
    archive: Path, name: str, fields: dict[str, int], message: str
) -> None:
    change_entry(archive, name, **fields)
    with pytest.raises(CheckpointError, match=message):
        torch_archive.read_records(archive)


def test_a_pickle_of_absurd_size_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_archive, "MAX_PICKLE_BYTES", 10)
    with pytest.raises(CheckpointError, match=r"'data\.pkl' has more than 10 bytes"):
        torch_archive.read_records(archive)


def test_a_file_without_a_directory_is_said_to_be_cut_off(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:700])
    with pytest.raises(CheckpointError, match="ends at byte 700 without one: it is cut off"):
        torch_archive.read_records(archive)


def test_bytes_that_are_missing_in_the_middle_are_an_error_of_ours(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[:64] + content[104:])  # the first record now begins before the file
    with pytest.raises(CheckpointError, match=r"the directory of the zip archive puts .* before the file's"):
        torch_archive.read_records(archive)


def test_an_archive_on_several_disks_is_an_error_of_ours(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x06\x07") + 16] = 2  # the number of disks
    archive.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the directory of the zip archive is damaged.*disks"):
        torch_archive.read_records(archive)
