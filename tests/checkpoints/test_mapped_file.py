"""A mapped file costs no memory until it is touched, and what is written into it stays in memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from receptance.checkpoints import mapped_file


def test_its_bytes_are_those_of_the_file_and_outlive_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    data = mapped_file.read(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert bytes(data) == b"abc"


def test_what_is_written_changes_neither_the_file_nor_what_others_see(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    one, other = mapped_file.read(tmp_path / "a"), mapped_file.read(tmp_path / "a")
    one[0] = ord("x")
    assert (bytes(one), bytes(other), (tmp_path / "a").read_bytes()) == (b"xbc", b"abc", b"abc")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system decides how much may be mapped")
def test_a_file_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(4 * memory)
    data = mapped_file.read(tmp_path / "sparse")
    assert len(data) == 4 * memory
    assert data[-1] == 0
