from __future__ import annotations

from pathlib import Path

from tests.native.programs import ROOT, compiled, needed, succeed


def test_products_on_emulated_amx_tiles_are_those_of_double_precision(tmp_path: Path) -> None:
    compiler = needed("c++", "to compile the emulation")
    sources = [ROOT / "tests" / "native" / "amx.cpp", ROOT / "native" / "pack.cpp"]
    succeed(compiled(compiler, tmp_path, "-DRECEPTANCE_LEVEL=emulated", *sources))
