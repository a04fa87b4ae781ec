from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import receptance
from receptance import native
from receptance.errors import KernelError

needs_library = pytest.mark.skipif(native.library() is None, reason=str(native.unavailable_reason()))


@pytest.fixture
def loads_afresh() -> Iterator[None]:
    native._load.cache_clear()
    yield
    native._load.cache_clear()


@needs_library
def test_the_best_level_of_the_machine_is_in_use() -> None:
    assert native.level() == native.levels()[-1]
    assert native.unavailable_reason() is None


@needs_library
@pytest.mark.parametrize("name", native.levels())
def test_every_level_can_be_forced_and_is_left_again(name: str) -> None:
    before = native.level()
    with native.use_level(name):
        assert native.level() == name
    assert native.level() == before


@needs_library
def test_a_level_that_the_machine_lacks_is_refused_by_name() -> None:
    with (
        pytest.raises(KernelError, match="'vax' cannot be used here;.*" + native.levels()[0]),
        native.use_level("vax"),
    ):
        pass


@needs_library
def test_the_level_is_left_when_the_block_fails() -> None:
    before = native.level()
    with pytest.raises(ZeroDivisionError), native.use_level(native.levels()[0]):
        raise ZeroDivisionError
    assert native.level() == before


@pytest.mark.usefixtures("loads_afresh")
def test_a_missing_library_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receptance, "__path__", [str(tmp_path)])
    assert native.library() is None
    assert str(tmp_path / native.FILE) in str(native.unavailable_reason())
    assert native.levels() == ()
    with pytest.raises(KernelError, match="not built"):
        native.level()


@pytest.mark.usefixtures("loads_afresh")
def test_a_file_that_is_no_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / native.FILE).write_bytes(b"not a library")
    monkeypatch.setattr(receptance, "__path__", [str(tmp_path)])
    assert native.library() is None
    assert "cannot be loaded" in str(native.unavailable_reason())


@needs_library
@pytest.mark.usefixtures("loads_afresh")
def test_a_library_of_another_interface_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = next(file for folder in receptance.__path__ if (file := Path(folder, native.FILE)).is_file())
    shutil.copy(built, tmp_path)
    monkeypatch.setattr(receptance, "__path__", [str(tmp_path)])
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    assert native.library() is None
    assert f"this version needs {native.INTERFACE}" in str(native.unavailable_reason())


@needs_library
@pytest.mark.usefixtures("loads_afresh")
def test_the_library_is_found_in_a_later_folder_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receptance, "__path__", [str(tmp_path), *receptance.__path__])
    assert native.library() is not None


@needs_library
def test_only_the_functions_for_python_leave_the_library() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm, to list the symbols of a library")
    built = next(file for folder in receptance.__path__ if (file := Path(folder, native.FILE)).is_file())
    listed = subprocess.run([nm, "-D", "--defined-only", built], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    assert names
    assert all(name.startswith("receptance_") for name in names)
