"""A vocabulary file is read whole or refused, with its path in the error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from receptance.errors import TokenizerError
from receptance.tokenizers import files


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1 'a' 1\r\n\xff")
    assert files.read(tmp_path / "a.txt", limit=10) == b"1 'a' 1\r\n\xff"


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    os.truncate(path, 1 << 40)  # a hole: it takes no disk, and would take all memory
    with pytest.raises(TokenizerError, match=r"a\.txt: has 1,099,511,627,776 bytes.* 1,000 at most"):
        files.read(path, limit=1000)


@pytest.mark.parametrize(("make", "what"), [(Path.mkdir, "is not a file"), (os.mkfifo, "is not a file")])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, make: object, what: str) -> None:
    path = tmp_path / "a.txt"
    assert callable(make)
    make(path)
    with pytest.raises(TokenizerError, match=rf"a\.txt: {what}"):
        files.read(path, limit=1000)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"a\.txt: does not exist"):
        files.read(tmp_path / "a.txt", limit=1000)
    with pytest.raises(TokenizerError, match=r"cannot be read"):
        files.read(tmp_path / ("a" * 5000), limit=1000)
