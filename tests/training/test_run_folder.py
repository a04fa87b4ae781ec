from __future__ import annotations

from pathlib import Path

import pytest

from receptance.errors import ConfigError
from receptance.training.run_folder import RunFolder


def test_an_empty_or_missing_folder_may_be_used(tmp_path: Path) -> None:
    RunFolder(tmp_path).refuse_if_used()
    RunFolder(tmp_path / "not there").refuse_if_used()


def test_other_files_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    RunFolder(tmp_path).refuse_if_used()


def test_a_run_that_can_go_on_is_told_how(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.snapshot.touch()
    with pytest.raises(ConfigError, match=f"receptance train --resume {tmp_path}"):
        folder.refuse_if_used()


@pytest.mark.parametrize("name", ["checkpoint", "metrics", "config"])
def test_what_is_left_of_a_run_without_a_snapshot_is_not_overwritten(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path)
    getattr(folder, name).touch()
    with pytest.raises(
        ConfigError, match=r"no snapshot to go on from. Remove the folder, or .*--run\.folder"
    ):
        folder.refuse_if_used()
