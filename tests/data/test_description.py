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
    change(folder, tokenizer_file="../tokenizer.json")
    with pytest.raises(DataError, match="name without folders"):
        open_tokenizer(folder)
