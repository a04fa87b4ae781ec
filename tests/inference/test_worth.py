"""It pays to read ahead what is likely right, as far as spans are cheap, and not otherwise."""

from __future__ import annotations

import pytest

from receptance.inference.worth import SIZES, TRIES, Duration, Share, Worth

KIND = 3


def worth_of(seconds: dict[int, float], right: float, guessing: float = 0.0) -> Worth:
    """Spans that were read often take so long, and this share of the guesses was right."""
    worth = Worth()
    for size, each in seconds.items():
        for _ in range(TRIES):
            worth.took(size, each)
    for guess in range(1000):
        worth.guessed(KIND, int((guess + 1) * right) > int(guess * right))
    worth.guessing_took(guessing)
    return worth


FREE = dict.fromkeys((1, *SIZES), 1.0)
LINEAR = {size: float(size) for size in (1, *SIZES)}
MEMORY_BOUND = {1: 1.0, 2: 1.1, 4: 1.4, 8: 2.3, 16: 4.0}


@pytest.mark.parametrize(
    ("seconds", "right", "guessing", "count"),
    [
        (FREE, 1.0, 0.0, 15),
        (FREE, 0.0, 0.0, 0),
        (LINEAR, 1.0, 0.0, 0),  # a span that costs as much as its tokens gains nothing
        (MEMORY_BOUND, 1.0, 0.0, 15),
        (MEMORY_BOUND, 0.5, 0.0, 1),  # 1.5 / 1.1 is more than 1.875 / 1.4
        (MEMORY_BOUND, 0.8, 0.0, 3),
        (MEMORY_BOUND, 0.05, 0.0, 0),
        (MEMORY_BOUND, 0.8, 1.0, 0),  # a draft model as slow as the model
    ],
)
def test_the_span_with_the_most_tokens_a_second_is_read(
    seconds: dict[int, float], right: float, guessing: float, count: int
) -> None:
    assert worth_of(seconds, right, guessing).count(KIND, 15) == count


def test_no_more_is_guessed_than_may_be_written() -> None:
    worth = worth_of(FREE, 1.0)
    assert [worth.count(KIND, most) for most in (0, 1, 2, 3, 14, 100)] == [0, 1, 1, 3, 7, 15]


def test_nothing_is_guessed_before_the_time_of_a_token_is_known() -> None:
    worth = Worth()
    for _ in range(TRIES):
        assert worth.count(KIND, 15) == 0
        worth.took(1, 1.0)
    assert worth.count(KIND, 15) > 0  # what was never tried is tried


def test_kinds_of_guesses_do_not_know_of_each_other() -> None:
    worth = worth_of(MEMORY_BOUND, 0.0)
    for _ in range(20):
        worth.guessed(KIND + 1, True)
    assert worth.count(KIND, 15) == 0
    assert worth.count(KIND + 1, 15) > 0


def test_it_turns_off_where_guesses_fail_and_on_where_they_come_true() -> None:
    worth = worth_of(MEMORY_BOUND, 1.0)
    for is_right, paying in ((False, False), (True, True)) * 3:
        for _ in range(60):
            worth.guessed(KIND, is_right)
        assert bool(worth.count(KIND, 15)) == paying


def test_one_disturbed_measurement_is_no_reason_to_stop() -> None:
    worth = worth_of(MEMORY_BOUND, 1.0)
    worth.took(16, 20.0)
    assert worth.count(KIND, 15) > 0
    duration = Duration()
    for seconds in (3.0, 1.0, 9.0, 9.0):
        duration.add(seconds)
    assert 1.0 < duration.seconds < 3.0


def test_a_share_is_that_of_the_latest_guesses() -> None:
    share = Share()
    for _ in range(100):
        share.add(True)
    assert share.value > 0.95
    for _ in range(100):
        share.add(False)
    assert share.value < 0.05
