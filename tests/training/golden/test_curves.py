"""Every generation learns as it did when its curve was drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.training.golden.curves import FILE, MODELS, TEXT_SHA256, Curve, drawn, prepared

WRITTEN = json.loads(FILE.read_text(encoding="utf-8"))
FIRST_POINTS = 2  # of 20; here rounding has not yet grown


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("golden"))


def exceeded(curve: Curve, model: str, dtype: str = "float32") -> list[int]:
    """Return the points at which a curve, or the beginning of one, leaves its margin."""
    written = WRITTEN["curves"][model]
    distances = [abs(one - two) for one, two in zip(curve.points, written["points"], strict=False)]
    return [
        number
        for number, distance in enumerate(distances)
        if not distance <= written["margins"][dtype][number]
    ]


def test_the_text_is_the_one_that_the_curves_were_drawn_over() -> None:
    assert WRITTEN["text_sha256"] == TEXT_SHA256


@pytest.mark.parametrize("model", MODELS)
def test_the_margins_tell_one_run_from_another(model: str) -> None:
    written: Any = WRITTEN["curves"][model]
    assert max(written["margins"]["float32"]) < written["largest_distances"]["another seed"]


@pytest.mark.parametrize("model", MODELS)
def test_a_curve_begins_as_it_was_drawn(data: Path, tmp_path: Path, model: str) -> None:
    assert not exceeded(drawn(model, data, tmp_path / "run", points=FIRST_POINTS), model)


def test_a_run_that_learns_otherwise_is_off_its_curve(data: Path, tmp_path: Path) -> None:
    otherwise = "--optimizer.betas=[0.9, 0.95]"
    assert exceeded(drawn("4", data, tmp_path / "run", otherwise, points=FIRST_POINTS), "4")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_curve_is_drawn_again(
    data: Path, tmp_path: Path, model: str, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    curve = drawn(model, data, tmp_path / "run", f"--training.dtype={dtype}")
    written = WRITTEN["curves"][model]
    distances = curve.distances(Curve(written["points"], written["validation"]))
    margins: Sequence[float] = written["margins"][dtype]
    record_property(
        "figure",
        f"golden curve RWKV-{model} {dtype}: within {max(distances):.1e} nats (margin {margins[-1]:.1e}; "
        f"another seed {written['largest_distances']['another seed']:.1e})",
    )
    assert all(distance <= margin for distance, margin in zip(distances, margins, strict=True))
