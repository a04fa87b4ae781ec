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
    (tmp_path / "config.toml").touch()
    with pytest.raises(ConfigError, match=f"receptance train --resume {tmp_path}"):
        RunFolder(tmp_path).refuse_if_used()


@pytest.mark.parametrize("name", ["checkpoint", "metrics"])
def test_what_looks_like_a_run_is_not_overwritten(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path)
    getattr(folder, name).touch()
    with pytest.raises(ConfigError, match=r"no config\.toml of a run. Remove the folder, or .*--run\.folder"):
        folder.refuse_if_used()


def test_a_claimed_folder_is_cleared_of_leftovers_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "snapshots" / ".step-00000012.0123abcd.tmp").mkdir(parents=True)
    (tmp_path / "snapshots" / ".step-00000012.0123abcd.tmp" / "state.safetensors").touch()
    (tmp_path / ".config.toml.0123abcd.tmp").touch()
    for name in (".notes.tmp", "config.toml", "snapshots/mine.tmp", ".config.toml.tmp"):
        (tmp_path / name).touch()
    with RunFolder(tmp_path).claimed():
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {".notes.tmp", "config.toml", "snapshots", "snapshots/mine.tmp", ".config.toml.tmp"}


def test_a_claim_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).claimed(),
        pytest.raises(ConfigError, match="another process is training here"),
        RunFolder(tmp_path).claimed(),
    ):
        pytest.fail("two of them")
    with RunFolder(tmp_path).claimed():
        pass
