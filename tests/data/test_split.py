"""The split: a rule of the text alone, of the size that was asked for, that loses nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receptance.data.document import Document
from receptance.data.split import Split, pieces
from receptance.errors import ConfigError


def sides(texts: list[str], fraction: float) -> dict[str, set[str]]:
    """Return the parts of all texts, by split."""
    split = Split.plan(map(Document.plain, texts), fraction)
    found: dict[str, set[str]] = {"train": set(), "validation": set()}
    for text in texts:
        for name, (part,) in split.parts(Document.plain(text)):
            found[name].add(part.text)
    return found


def numbered(count: int) -> list[str]:
    return [f"document {i}" for i in range(count)]


@pytest.mark.parametrize("count", [20, 99, 1000, 5000])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_about_the_fraction_is_held_back_and_at_least_one_document(count: int, fraction: float) -> None:
    held_back = len(sides(numbered(count), fraction)["validation"])
    expected = max(1, fraction * count)
    assert abs(held_back - expected) <= 4 * expected**0.5 + 0.5
    assert held_back >= 1


@pytest.mark.parametrize("count", [20, 500])
def test_the_fraction_is_exact_where_documents_are_not_many(count: int) -> None:
    assert len(sides(numbered(count), 0.02)["validation"]) == max(1, round(0.02 * count))


@pytest.mark.parametrize("count", [5, 30, 3000])
def test_the_order_of_documents_changes_nothing(count: int) -> None:
    texts = numbered(count)
    assert sides(texts, 0.05) == sides(texts[::-1], 0.05)


def test_more_documents_move_none_to_the_other_side() -> None:
    before, after = sides(numbered(2000), 0.05), sides(numbered(3000), 0.05)
    assert before["validation"] < after["validation"]
    assert before["train"] < after["train"]


def test_equal_documents_are_on_the_same_side() -> None:
    found = sides(numbered(40) * 3, 0.25)
    assert not found["train"] & found["validation"]
    assert len(found["validation"]) == 10


def test_equal_documents_are_not_many_documents() -> None:
    assert sides(["the same"] * 100_000, 0.1) == {"train": {"the sam"}, "validation": {"e"}}


def test_a_plan_reads_no_more_documents_than_it_needs() -> None:
    endless = (Document.plain(str(i)) for i in itertools.count())
    assert not Split.plan(endless, 0.1).cuts


def test_a_few_documents_give_their_last_lines() -> None:
    text = "".join(f"line {i}\n" for i in range(1000))
    found = sides([text, text.upper()], 0.1)
    assert len(found["train"]) == len(found["validation"]) == 2
    tail = next(part for part in found["validation"] if part.islower())
    assert text.endswith(tail)
    assert tail.startswith("line 9")
    assert 0.1 <= len(tail) / len(text) < 0.11


@given(
    text=st.text("ab \n", min_size=2) | st.text(min_size=2),
    fraction=st.floats(0.001, 0.999),
)
def test_both_parts_of_a_document_are_its_text_and_neither_is_empty(text: str, fraction: float) -> None:
    (first, (begin,)), (second, (end,)) = Split(fraction, 0, cuts=True).parts(Document.plain(text))
    assert (first, second) == ("train", "validation")
    assert begin.text + end.text == text
    assert begin.text
    assert end.text


@given(text=st.text("ab \n") | st.text(), longest=st.integers(1, 20))
def test_pieces_are_the_text_and_none_is_too_long(text: str, longest: int) -> None:
    cut = list(pieces(text, longest))
    assert "".join(cut) == text
    assert all(len(piece) <= longest for piece in cut)
    assert all(cut) or text == ""


def test_pieces_begin_at_lines_that_are_not_indented() -> None:
    text = "def f():\n    return 1\n\n\n" * 50
    assert all(piece.startswith("def") for piece in pieces(text, 100))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_that_makes_no_sense_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="validation_fraction"):
        Split.plan([], fraction)


def test_nothing_is_held_back_where_nothing_shall_be() -> None:
    assert sides(numbered(3), 0)["validation"] == set()
