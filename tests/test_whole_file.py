"""A small file is read whole or refused, with its path in the error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from receptance import whole_file
from receptance.errors import DataError, TokenizerError


def read(path: Path) -> bytes:
    return whole_file.read(path, limit=1000, needed="a vocabulary", error=TokenizerError)


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1 'a' 1\r\n\xff")
    assert read(tmp_path / "a.txt") == b"1 'a' 1\r\n\xff"
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    assert len(read(tmp_path / "a.txt")) == 1000


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    os.truncate(path, 1 << 40)  # a hole: it takes no disk, and would take all memory
    with pytest.raises(TokenizerError, match=r"a\.txt: has 1,099,511,627,776 bytes.* 1,000 at most"):
        read(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "a.txt"
    make(path)
    with pytest.raises(TokenizerError, match=r"a\.txt: is not a file; a vocabulary was needed"):
        read(path)


def test_a_missing_file_is_an_error_of_the_kind_asked_for(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"a\.txt: does not exist; a vocabulary was needed"):
        read(tmp_path / "a.txt")
    with pytest.raises(TokenizerError, match="cannot be read"):
        read(tmp_path / ("a" * 5000))
    with pytest.raises(DataError, match="does not exist; a description was needed"):
        whole_file.read(tmp_path / "a.txt", limit=1000, needed="a description", error=DataError)
