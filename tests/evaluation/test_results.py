"""Results of several models: figures, groups, comparisons and what of them goes to a file."""

from __future__ import annotations

import json
import math

import pytest

from receptance.evaluation.items import Choice, Text
from receptance.evaluation.results import Result

ITEMS = [
    Choice(contexts=("c",), endings=("a", "b"), right=0, group=group)
    for group in ("one", "one", "two", "two")
]
RESULT = Result(
    ITEMS,
    {"first": [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -2.0], [-1.0, -2.0]], "second": [[-1.0, -2.0]] * 4},
)


def test_figures_are_of_all_items_and_of_each_group() -> None:
    assert RESULT.metrics == ["acc"]
    assert RESULT.estimate("first", "acc").value == 0.75
    groups = RESULT.by_group("first", "acc")
    assert {name: (each.value, each.items) for name, each in groups.items()} == {
        "one": (0.5, 2),
        "two": (1.0, 2),
    }


def test_a_model_is_compared_item_by_item() -> None:
    found = RESULT.comparison("second", "first", "acc")
    assert found is not None
    assert found.value == 0.25
    assert found.standard_error == pytest.approx(0.25)  # of differences 0, 1, 0, 0: deviation 1/2, over 2


def test_a_loss_per_token_is_not_compared_with_that_of_another_tokenizer() -> None:
    kept = [{"tokens": tokens, "nats": 2.0, "first": []} for tokens in (4, 3)]
    result = Result([Text.of("ab cd")], {"first": kept[:1], "second": kept[1:]})
    assert result.comparison("second", "first", "token_perplexity") is None
    compared = result.comparison("second", "first", "bits_per_byte")
    assert compared is not None
    assert compared.value == 0.0
    second = result.as_json()["models"]["second"]  # type: ignore[index]
    assert second["token_perplexity"]["beside_first"] is None


def test_all_of_it_is_json() -> None:
    found = json.loads(json.dumps(RESULT.as_json(per_item=True), allow_nan=False))
    assert found["items"] == 4
    assert found["models"]["first"]["acc"]["groups"]["two"]["value"] == 1.0
    assert found["models"]["second"]["acc"]["beside_first"]["value"] == 0.25
    assert "beside_first" not in found["models"]["first"]["acc"]
    assert found["per_item"][1] == {
        "item": {"group": "one", "contexts": ["c"], "endings": ["a", "b"], "right": 0, "by_length": False},
        "answers": {"first": [-2.0, -1.0], "second": [-1.0, -2.0]},
    }


def test_a_single_text_has_no_error_and_its_loss_has_positions() -> None:
    kept = {"tokens": 4, "nats": 4 * math.log(2), "first": [1.0, 3.0, 9.0]}
    result = Result([Text.of("ab cd")], {"model": [kept]})
    found = result.as_json()["models"]["model"]  # type: ignore[index]
    assert found["bits_per_byte"]["value"] == pytest.approx(4 / 5)
    assert found["bits_per_byte"]["standard_error"] is None
    positions = result.by_position(4)["model"]
    assert [(each.begin, each.end, each.nats) for each in positions] == [
        (0, 1, 1.0),
        (1, 2, 2.0),
        (2, 4, 3.0),
    ]
