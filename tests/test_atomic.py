"""A file is written whole, or the one of before stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from receptance import atomic
from receptance.errors import ConfigError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_takes_the_name_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    with atomic.write(tmp_path / "a.bin") as temporary:
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"new")
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_keeps_the_file_of_before(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")

    def fail_half_way() -> None:
        with atomic.write(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"ne")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_the_permissions_are_those_of_the_umask_even_where_the_writer_narrows_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic.write(tmp_path / "a.bin") as temporary:
            temporary.chmod(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


def test_a_symbolic_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "target")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "target").read_text() == "new"


def test_the_bytes_are_on_disk_before_the_name_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(handle: int) -> None:
        operations.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def recorded_replace(self: Path, target: Path) -> Path:
        operations.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    atomic.write_text(tmp_path / "a.txt", "text")
    with atomic.write_folder(tmp_path / "b") as folder:
        (folder / "c").write_text("text")
    assert operations == ["file", "rename", "folder", "file", "folder", "rename", "folder"]


def test_text_is_written_byte_for_byte(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a.txt", "é\n\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\n\r\n".encode()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with atomic.write_folder(tmp_path / "model") as folder:
            (folder / "part").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert names(tmp_path) == []
    with atomic.write_folder(tmp_path / "model") as folder:
        (folder / "part").write_text("whole")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "part").read_text() == "whole"


def test_a_folder_with_something_in_it_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(ConfigError, match="exists already"), atomic.write_folder(tmp_path / "model"):
        pytest.fail("the block must not run")
    assert names(tmp_path / "model") == ["mine"]
