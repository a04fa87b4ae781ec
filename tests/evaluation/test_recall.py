"""Generated tasks: what is asked was said in the text, once, and the seed decides everything."""

from __future__ import annotations

import re

import pytest

from receptance.errors import ConfigError
from receptance.evaluation.items import Completion
from receptance.evaluation.recall import GENERATED, generated


def items_of(name: str, **arguments: object) -> list[Completion]:
    return list(generated(name, **arguments).items)  # type: ignore[arg-type]


def test_the_pass_key_is_hidden_anywhere_in_a_text_of_the_length() -> None:
    places = []
    for item in items_of("passkey", lengths=[2000], count=200):
        key = item.ending.strip()
        assert re.fullmatch(r"[1-9]\d{4}", key)
        before, middle, after = item.context.split(key)
        assert middle == ". Remember it. "
        assert after.endswith("What is the pass key? The pass key is")
        assert 1850 < len(item.context) - len("What is the pass key? The pass key is") <= 2000
        places.append(len(before) / len(item.context))
    assert min(places) < 0.1
    assert max(places) > 0.85


def test_a_value_is_asked_by_a_key_that_came_once() -> None:
    for item in items_of("recall", lengths=[70, 700], count=40):
        text, _, key = item.context.rpartition(", ")
        pairs = dict(pair.split(" ") for pair in text.split(", "))
        assert len(pairs) == int(item.group.split()[0]) // 7
        assert item.ending == f" {pairs[key]}"


@pytest.mark.parametrize("name", GENERATED)
def test_seed_length_and_place_decide_an_item(name: str) -> None:
    few, many = (items_of(name, lengths=[300], count=count, seed=1) for count in (5, 20))
    assert many[:5] == few
    both = items_of(name, lengths=[500, 300], count=5, seed=1)
    assert both[5:] == few
    assert len({item.context for item in many}) == 20
    assert items_of(name, lengths=[300], count=5, seed=2) != few


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no generated task 'needle'; there are passkey, recall"):
        generated("needle")
    with pytest.raises(ConfigError, match="passkey was asked for 50 items of 20 bytes"):
        generated("passkey", lengths=[20])
    with pytest.raises(ConfigError, match="recall was asked for 0 items"):
        generated("recall", count=0)
