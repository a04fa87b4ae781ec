"""C++ programs that test the kernels where Python does not reach, compiled when a test asks for them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def needed(program: str, why: str) -> str:
    """Return the path of a program; skip the test without it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}, {why}")
    return path


def compiled(compiler: str, folder: Path, *arguments: str | Path) -> Path:
    """Return a program compiled in this folder."""
    program = folder / "program"
    include = [f"-I{ROOT / 'native'}", f"-I{ROOT / 'tests' / 'native'}"]
    command = [
        compiler,
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-psabi",
        *include,
        *arguments,
    ]
    succeed(*command, "-o", program, "-ldl")
    return program


def succeed(*command: str | Path) -> str:
    """Run a command and return what it printed; fail the test with that if the command fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout
