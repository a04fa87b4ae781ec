"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

# Several test processes share the cores, and torch's threads spin while they wait for each other. Set before
# torch is imported; a test that is about threads asks for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference models, vectors and corpora beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference data is not there: {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """Do not check shapes meanwhile: torch's compiler cannot follow the checker."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
