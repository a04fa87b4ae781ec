"""A JSON file is an object, or it is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from receptance.checkpoints import json_file
from receptance.errors import CheckpointError


def test_what_is_written_comes_back_in_its_order(tmp_path: Path) -> None:
    content = {"z": [1, 2.5, None, True], "a": {"é": "\n"}}
    json_file.write(tmp_path / "a.json", content)
    assert list(json_file.read(tmp_path / "a.json").items()) == list(content.items())
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
        (b"[]", "is a JSON list"),
        (b"null", "is a JSON NoneType"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"a\.json: it {reason}"):
        json_file.read(tmp_path / "a.json")


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(json_file.MAX_BYTES + 1)
    with pytest.raises(CheckpointError, match="more than 2,000,000 bytes"):
        json_file.read(tmp_path / "a.json")
