"""The rules that keep the code easy to find one's way in, checked on the files themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "receptance"
MODULES = sorted(PACKAGE.rglob("*.py"))
NATIVE = sorted((ROOT / "native").glob("*.*"))


@pytest.mark.parametrize("path", [*MODULES, *NATIVE], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_holds_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert not re.match(r"(utils?|helpers?|common|misc)\b", path.stem)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_functions_are_short_and_modules_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module opens by saying what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name} is longer than 60 lines"


def test_every_source_file_has_its_tests_at_the_mirrored_path() -> None:
    missing = []
    for path in MODULES:
        relative = path.relative_to(PACKAGE)
        if path.name in {"__init__.py", "errors.py"} or relative.parts[0] == "cli":
            continue
        # A version of an operator is held to its contract: wkv4_scan by test_wkv4.
        names = (f"test_{path.name}", f"test_{path.stem.rpartition('_')[0]}.py")
        if not any((ROOT / "tests" / relative.parent / name).is_file() for name in names):
            missing.append(relative.as_posix())
    assert not missing


def test_importing_the_package_is_light_and_does_nothing() -> None:
    code = (
        "import os, sys, threading; before = dict(os.environ); import receptance, receptance.cli.main; "
        "assert dict(os.environ) == before; assert threading.active_count() == 1; "
        "assert not {'torch', 'transformers', 'matplotlib', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_map_names_every_folder_and_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in MODULES:
        if path.stem != "__init__":
            assert re.search(rf"\b{path.stem}\b", text), f"docs/architecture.md does not name {path.stem}"
    for path in NATIVE:
        assert re.search(rf"\b{path.stem}\b", text), f"docs/architecture.md does not name native/{path.stem}"


def test_the_readme_names_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", readme, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target}"
    commands = set(re.findall(r"^receptance ([a-z]+)", readme, flags=re.MULTILINE))
    assert commands
    for command in commands:
        assert (PACKAGE / "cli" / f"{command}.py").is_file(), f"receptance {command}"
