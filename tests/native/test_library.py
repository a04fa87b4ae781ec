from __future__ import annotations

import sys
from pathlib import Path

import pytest

import receptance
from receptance import native
from tests.native.programs import ROOT, compiled, needed, succeed

PROGRAM = ROOT / "tests" / "native" / "library.cpp"
AARCH64 = "aarch64-linux-gnu"


@pytest.mark.skipif(native.library() is None, reason=str(native.unavailable_reason()))
def test_every_level_of_this_machine_computes_what_double_precision_does(tmp_path: Path) -> None:
    program = compiled(needed("c++", "to compile the test"), tmp_path, PROGRAM)
    built = next(file for folder in receptance.__path__ if (file := Path(folder, native.FILE)).is_file())
    printed = succeed(program, built)
    for level in native.levels():
        assert f"{level}: RWKV-7 in parts:" in printed


@pytest.mark.slow  # it compiles all kernels
def test_aarch64_computes_what_double_precision_does(tmp_path: Path) -> None:
    compiler = needed(f"{AARCH64}-g++", f"of the Debian package g++-{AARCH64}")
    emulator = needed("qemu-aarch64", "of the Debian package qemu-user")
    cmake, ninja = (Path(sys.executable).with_name(name) for name in ("cmake", "ninja"))
    if not (cmake.is_file() and ninja.is_file()):
        cmake, ninja = (Path(needed(name, "to compile the library")) for name in ("cmake", "ninja"))
    target = {
        "SYSTEM_NAME": "Linux",
        "SYSTEM_PROCESSOR": "aarch64",
        "CXX_COMPILER": compiler,
        "MAKE_PROGRAM": ninja,
    }
    options = [f"-DCMAKE_{name}={value}" for name, value in target.items()]
    succeed(cmake, "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options)
    succeed(cmake, "--build", tmp_path)
    program = compiled(compiler, tmp_path, PROGRAM)
    for processor, level in (("cortex-a57", "base"), ("max", "aarch64_dotprod")):
        run = (emulator, "-cpu", processor, "-L", f"/usr/{AARCH64}", program, tmp_path / native.FILE)
        printed = succeed(*run)
        assert f"{level}: RWKV-7 in parts:" in printed
