from __future__ import annotations

import re

import pytest

from receptance.inspection.drawing import duration, ridges, slope


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (0.0123, "0.012"),
        (0.69, "0.69"),
        (12.4, "12"),
        (120, "120"),
        (999, "1k"),
        (3449, "3.4k"),
        (2.5e6, "2.5M"),
    ],
)
def test_durations_are_short(tokens: float, text: str) -> None:
    assert duration(tokens) == text


def test_what_never_ends_is_said_to_be_long() -> None:
    assert duration(None) == duration(1e9) == "> 10M"


def test_a_ridge_is_highest_where_most_half_lives_are() -> None:
    shares = [0.0] * 96
    shares[24] = 1.0
    half_lives = {
        "distribution": {"edges": [10 ** (-1 + 4 * i / 96) for i in range(97)], "shares": [shares]},
        "over_text": [[[1.0, 1.0], [100.0, None]]],
    }
    drawn = ridges(half_lives)
    path = re.search(r'<path d="M0 30L(.*?)L100 30Z"', drawn)
    assert path
    points = [tuple(map(float, point.split())) for point in re.findall(r"[\d.]+ [\d.]+", path[1])]
    assert min(points, key=lambda point: point[1]) == (pytest.approx(100 * 24.5 / 96, abs=0.01), 3.0)
    ticks = re.findall(r'class="tick" d="M([\d.]+) ', drawn)
    assert [float(tick) for tick in ticks] == [25.0, 100.0]  # one token; without end
    assert "100 · &gt; 10M" in drawn or "100 · > 10M" in drawn


def test_the_slope_falls_where_influence_does() -> None:
    drawn = slope([1.0, 0.1, 0.01, None, 1e-9])
    points = [tuple(map(float, point.split(","))) for point in re.search(r'points="(.*?)"', drawn)[1].split()]
    assert [y for _, y in points] == [0.0, 50.0, 100.0]
    assert points[0][0] == 0.0
    assert slope([None]) == ""
