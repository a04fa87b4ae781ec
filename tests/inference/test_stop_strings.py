"""Stop strings end the text at the same place however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.errors import ConfigError
from receptance.inference.stop_strings import StopStrings

LETTERS = st.text("ab\n", max_size=12)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


def before_any_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition, one character at a time."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@settings(deadline=None)
@given(st.lists(LETTERS, max_size=6), STOPS)
def test_pieces_join_to_the_text_before_the_first_complete_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopStrings(stops)
    written = "".join(matcher.feed(piece) for piece in pieces) + matcher.flush()
    assert (written, matcher.is_found) == before_any_stop("".join(pieces), stops)


@settings(deadline=None)
@given(LETTERS, STOPS)
def test_no_more_is_held_back_than_may_begin_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopStrings(stops)
    written = matcher.feed(text)
    held = matcher.flush()
    if not matcher.is_found:
        assert written + held == text
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_a_single_string_is_one_stop_string_not_its_letters() -> None:
    matcher = StopStrings("User:")
    assert matcher.feed("Use it, User: no") == "Use it, "
    assert matcher.is_found


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        StopStrings(["\n", ""])
