"""What the fuzzers began with and what they found, read again: whatever comes, no target breaks."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[2] / "fuzz"
CORPUS = FUZZ / "corpus"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.py"))
LARGEST_BYTES = 200_000  # of all inputs together, because every clone has them


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_that_a_fuzzer_kept_is_read_or_refused(name: str) -> None:
    target = importlib.import_module(f"fuzz.fuzz_{name}")
    inputs = sorted((CORPUS / name).iterdir())
    assert any(path.name.startswith("valid") for path in inputs)
    for path in inputs:
        target.read(path.read_bytes())
    for length in range(0, 200, 7):
        target.read(inputs[-1].read_bytes()[:length])


def test_the_inputs_are_small_and_each_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) <= LARGEST_BYTES
