"""What a config.json says is understood, or refused where it asks for another function."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from receptance.checkpoints.huggingface.dialect import Dialect, rows, whole_number
from receptance.checkpoints.layout import SAME, Layout, Row
from receptance.errors import CheckpointError

PATH = Path("config.json")
DIALECT = Dialect(
    program="none",
    generation="7",
    model_type="x",
    sign=re.compile(r"^their\.layers\.\d+\."),
    layout=lambda settings: Layout([]),
    fields={"width": "hidden_size"},
    needed={"eps": 1e-5, "bias": True, "attn": []},
    derived=lambda settings: {"head_size": settings["width"]},
)


def test_fields_are_taken_over_and_null_says_nothing() -> None:
    assert DIALECT.understood(PATH, {"width": 3, "other": 1}) == {"hidden_size": 3, "head_size": 3}
    assert DIALECT.understood(PATH, {"width": None, "eps": None}) == {"head_size": None}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eps", 1e-6),
        ("eps", "1e-5"),
        ("bias", False),
        ("attn", {"layers": [3]}),
        ("eps", float("nan")),
        ("eps", "x" * 9999),
    ],
)
def test_another_function_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(
        CheckpointError, match=rf"^config\.json: {key} is .* computes RWKV-7 only with"
    ) as raised:
        DIALECT.understood(PATH, {"width": 1, key: value})
    assert len(str(raised.value)) < 300


def test_a_dialect_is_told_by_any_name_that_bears_its_sign() -> None:
    assert DIALECT.is_spoken(["head", "their.layers.12.x"])
    assert not DIALECT.is_spoken(["my.their.layers.12.x", "their.layers.x"])
    assert not replace(DIALECT, sign=re.compile("^no")).is_spoken([])


def test_rows_share_what_their_names_begin_with() -> None:
    assert rows("a.", "b.", ("x", "y")) == (Row("a.x", "b.x", SAME), Row("a.y", "b.y", SAME))
    assert rows("a.", "b.", {"x": "z"}) == (Row("a.x", "b.z"),)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "8", None, [8], 1 << 31])
def test_what_counts_nothing_is_the_default(value: object) -> None:
    assert whole_number({"n": value}, "n", 64) == 64
    assert whole_number({"n": 3}, "n", 64) == 3
