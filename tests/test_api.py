"""The names that `import receptance` offers, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import receptance

ROOT = Path(__file__).resolve().parents[1]


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, receptance; print(sorted({'torch', 'numpy', 'rich', 'cyclopts'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_listed() -> None:
    for name in receptance.__all__:
        assert getattr(receptance, name) is not None
        assert name in dir(receptance)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'receptance' has no attribute 'laod'"):
        receptance.laod  # type: ignore[attr-defined]  # noqa: B018 - the point of the test


def test_type_checkers_see_the_names_where_they_come_from() -> None:
    """They read the imports under TYPE_CHECKING, and the interpreter a table: both must say the same."""
    source = ast.parse(Path(receptance.__file__).read_text())
    guarded = [
        statement
        for block in ast.walk(source)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
    ]
    assert {
        alias.name: statement.module for statement in guarded for alias in statement.names
    } == receptance._HOMES
    assert {*receptance._HOMES, "errors", "__version__"} == set(receptance.__all__)


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    try:
        installed = metadata.version("receptance")
    except metadata.PackageNotFoundError:
        assert receptance.__version__ == "0+not.installed"
    else:
        assert receptance.__version__ == installed == project["version"]
