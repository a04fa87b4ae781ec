"""The description of a prepared folder is trusted only as far as it fits the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from receptance.data import open_split, open_tokenizer, prepare, read_description
from receptance.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("some text\n" * 100)
    prepare(tmp_path / "a.txt", tmp_path / "out", tokenizer="bytes")
    return tmp_path / "out"


def change(folder: Path, **changes: Any) -> None:
    contents = json.loads((folder / "data.json").read_text()) | changes
    (folder / "data.json").write_text(json.dumps(contents))


def test_a_description_survives_writing_and_reading(folder: Path) -> None:
    description = read_description(folder)
    description.write(folder)
    assert read_description(folder) == description


def test_a_description_with_entries_of_the_future_is_read(folder: Path) -> None:
    change(folder, colour="blue")
    assert read_description(folder).tokenizer == "bytes"


def test_a_description_of_a_later_version_asks_for_an_update(folder: Path) -> None:
    change(folder, version=2, splits="something else")
    with pytest.raises(DataError, match=r"data\.json: is of version 2, .* up to 1 .* Update receptance"):
        read_description(folder)
    contents = json.loads((folder / "data.json").read_text())
    del contents["version"], contents["splits"]  # as before there were versions
    (folder / "data.json").write_text(json.dumps(contents))
    with pytest.raises(DataError, match=r"splits: .*missing|splits: .*required"):
        read_description(folder)


def test_a_text_and_a_folder_of_nothing_are_told_how_to_be_prepared(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"is a file.* receptance prepare .*a\.txt --output FOLDER"):
        read_description(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"Make it: receptance prepare TEXT… --output .*nothing"):
        read_description(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"[]", "object"),
        (b"{}", "tokenizer: "),
    ],
)
def test_a_damaged_description_is_refused(folder: Path, contents: bytes, message: str) -> None:
    (folder / "data.json").write_bytes(contents)
    with pytest.raises(DataError, match=rf"data\.json.*{message}"):
        read_description(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": "256"}, "vocabulary_size: "),
        ({"vocabulary_size": 0}, "vocabulary_size: "),
        ({"splits": {"train": {"documents": -1}}}, r"splits\.train\.documents: "),
        ({"splits": []}, "splits: "),
    ],
)
def test_a_wrong_entry_is_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    change(folder, **changes)
    with pytest.raises(DataError, match=rf"data\.json: {message}"):
        read_description(folder)


def test_a_folder_without_description_is_unfinished(folder: Path) -> None:
    (folder / "data.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        open_split(folder, "train")


def test_a_store_of_another_size_is_refused(folder: Path) -> None:
    for suffix in (".bin", ".idx"):
        (folder / f"train{suffix}").write_bytes((folder / f"validation{suffix}").read_bytes())
    with pytest.raises(DataError, match=r"train\.bin holds .* Prepare the folder again"):
        open_split(folder, "train")


def test_the_tokenizer_file_lies_in_the_folder(folder: Path) -> None:
    for name in ("../tokenizer.json", "/etc/tokenizer.json", "..", "a/tokenizer.json", "a\0.json", ""):
        change(folder, tokenizer_file=name)
        with pytest.raises(DataError, match="name without folders"):
            read_description(folder)


def test_without_a_file_the_tokenizer_is_a_name_and_no_path(folder: Path) -> None:
    for name in ("../tokenizer.json", "/etc", str(folder), "nonsense"):
        change(folder, tokenizer_file=None, tokenizer=name)
        with pytest.raises(DataError, match=r"without a tokenizer_file it must be one of bytes, world"):
            open_tokenizer(folder)


def test_there_are_two_splits_at_most(folder: Path) -> None:
    train = json.loads((folder / "data.json").read_text())["splits"]["train"]
    change(folder, splits={"train": train, "../train": train})
    with pytest.raises(DataError, match=r"there is a split '\.\./train', but only train and validation"):
        read_description(folder)


def test_a_description_beyond_reason_is_refused_unread(folder: Path) -> None:
    (folder / "data.json").write_bytes(b'{"a": [' + b"[]," * 40_000 + b"[]]}")
    with pytest.raises(DataError, match=r"data\.json: has 120,011 bytes, but the description"):
        read_description(folder)
    (folder / "data.json").unlink()
    (folder / "data.json").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"data\.json: is not a file"):
        read_description(folder)
