"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference models, vectors and corpora beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference data is not there: {SHARED.name}/ beside the checkout")
    return SHARED
