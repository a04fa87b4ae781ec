from __future__ import annotations

import io
import math
import re
from collections import deque
from dataclasses import replace

import pytest
from rich.console import Console

from receptance.cli.training_view import LivePanel, PlainLines, amount, curve, duration
from receptance.training import Progress, Sample, Validation

STEP = Progress(
    step=1234,
    tokens=5_000_000,
    seconds=61.0,
    loss=2.3456,
    bits_per_byte=1.2345,
    learning_rate=1e-3,
    gradient_norm=0.5,
    tokens_per_second=12_345.0,
    flops=5_000_000 * 1000,
    share=0.5,
    seconds_left=61.4,
    validation=None,
)
PEAK = 4 * 12_345.0 * 1000


def written_by(view: type[PlainLines], *steps: Progress, width: int = 80) -> str:
    console = Console(force_terminal=True, width=width, highlight=False, file=io.StringIO())
    with view(console, "Training in runs/x.", PEAK) as shown:
        for step in steps:
            shown.show(step)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_panel_shows_what_matters_and_fits_the_terminal(width: int) -> None:
    written = written_by(LivePanel, STEP, width=width)
    assert "Training in runs/x." in written
    panel = written[written.rindex("╭") :].rstrip().split("\n")
    assert {len(line) for line in panel} == {min(width, 100)}
    text = " ".join("".join(panel).split())
    for fact in ("loss 2.346", "bits/byte 1.234", "50% · 1:01 left", "tokens/s 12,345"):
        assert fact in text
    for fact in ("rate 1.00e-03", "gradient 0.50", "step 1,234", "tokens 5 M", "MFU 25%", "validation –"):
        assert fact in text


def test_the_panel_averages_losses_and_keeps_what_followed_above() -> None:
    better = replace(
        STEP,
        step=1235,
        loss=1.3456,
        validation=Validation(step=1235, loss=2.5, bits_per_byte=1.3),
        samples=(Sample(prompt="Once", text=" upon\x1b a time"),),
    )
    written = written_by(LivePanel, STEP, better)
    panel = " ".join(written[written.rindex("╭") :].split())
    assert "loss 2.246" in panel
    assert "validation 2.500" in panel
    assert "step 1,235: validation 2.500 · 1.300 bits/byte" in written
    assert "step 1,235: Once upon␛ a time" in written


def test_a_line_is_printed_at_once_and_at_the_end() -> None:
    steps = [replace(STEP, step=step, share=step / 9) for step in range(1, 10)]
    lines = written_by(PlainLines, *steps, width=200).splitlines()
    assert [line.partition(" · ")[0] for line in lines] == ["Training in runs/x.", "step 1", "step 9"]
    assert lines[1].endswith("12,345 tokens/s · MFU 25% · rate 1.0e-03 · gradient 0.50")


@pytest.mark.parametrize(
    ("seconds", "text"), [(math.inf, "?"), (59.6, "1:00"), (4.0, "0:04"), (3661, "1:01:01")]
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (12_345_678, "12.3 M"), (3e11, "300 G"), (3.1e12, "3.1 T")]
)
def test_an_amount_has_three_digits(count: float, text: str) -> None:
    assert amount(count) == text


def test_the_curve_goes_from_the_highest_bar_to_the_lowest_and_grows_to_its_width() -> None:
    assert curve(deque([3.0, 2.0, 1.0])) == "█▅▁"
    assert curve(deque([1.0, 1.0])) == "▁▁"
    long = curve(deque(float(-i) for i in range(1000)))
    assert len(long) == 40
    assert (long[0], long[-1]) == ("█", "▁")
