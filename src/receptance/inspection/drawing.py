"""The plots of the page as SVG that stretches, with words beside it that do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from receptance.inspection.report import Report

_LEAST_INFLUENCE = 1e-6  # nats: near what float32 can tell from nothing
_ENDLESS = 1e7  # tokens


def ridges(half_lives: Report) -> str:
    """Return a row for each layer: the spread of its half-lives on a logarithmic axis, median and slowest."""
    edges, shares = (half_lives["distribution"][key] for key in ("edges", "shares"))
    low, high = math.log10(edges[0]), math.log10(edges[-1])

    def place(tokens: float) -> str:
        power = min(max(math.log10(tokens), low), high)
        return f"{100 * (power - low) / (high - low):.2f}"

    height = max(1.6, min(3.5, 24 / len(shares)))
    rows = ['<span class="head">layer</span><span></span><span class="head number">median · slowest</span>']
    for layer, (share, heads) in enumerate(zip(shares, half_lives["over_text"], strict=True)):
        every = sorted(known(channel for head in heads for channel in head))
        middle, slowest = duration(_median(every)), duration(every[-1])
        ticks = "" if len(heads) == 1 else "".join(_ticks(heads, place))
        rows.append(
            f'<span class="name">{layer}</span><div class="row" style="--row: {height:.2f}rem">'
            f'<svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label="Layer {layer}: '
            f'median half-life {middle} tokens, slowest {slowest}"><path d="{_ridge(share)}"/>'
            f"{ticks}</svg></div>"
            f'<span class="number">{middle} · {slowest}</span>'
        )
    steps = (1, 2, 5) if high - low < 3 else (1,)
    labels = [step * 10.0**power for power in range(round(low), round(high) + 1) for step in steps]
    axis = "".join(
        f'<span style="left: {place(label)}%">{duration(label)}</span>'
        for label in labels
        if label < 1.001 * 10**high
    )
    rows.append(f'<span></span><div class="axis">{axis}</div><span class="head number">tokens</span>')
    return "\n".join(rows)


def _ticks(heads: Sequence[Sequence[float | None]], place: Callable[[float], str]) -> Iterator[str]:
    """Yield a mark at the median of each head."""
    for number, head in enumerate(heads):
        median = _median(sorted(known(head)))
        title = f"<title>head {number}: {duration(median)} tokens</title>"
        yield f'<path class="tick" d="M{place(median)} 27V33">{title}</path>'


def slope(by_distance: Sequence[float | None]) -> str:
    """Return a line over distance, both axes logarithmic, with its axes."""
    points = [
        (back, nats) for back, nats in enumerate(by_distance, start=1) if nats and nats > _LEAST_INFLUENCE
    ]
    if not points:
        return ""
    top = max(math.ceil(math.log10(max(nats for _, nats in points))), -5)
    bottom = min(math.floor(math.log10(min(nats for _, nats in points))), top - 1)
    width = math.log10(max(len(by_distance), 2))

    def across(back: float) -> float:
        return 100 * math.log10(back) / width

    def down(power: float) -> float:
        return 100 * (top - power) / (top - bottom)

    line = " ".join(f"{across(back):.2f},{down(math.log10(nats)):.2f}" for back, nats in points)
    powers = range(bottom, top + 1, max(1, (top - bottom) // 4))
    backs = [back for power in range(4) for back in (10**power, 3 * 10**power) if back <= len(by_distance)]
    grid = "".join(f'<path class="grid" d="M0 {down(power):.2f}H100"/>' for power in powers)
    words = "".join(
        f'<span class="y" style="top: {down(power):.2f}%">{_power(power)}</span>' for power in powers
    )
    words += "".join(f'<span class="x" style="left: {across(back):.2f}%">{back}</span>' for back in backs)
    drawn = f'{grid}<polyline class="line" points="{line}"/>'
    return f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{drawn}</svg>{words}'


def duration(tokens: float | None) -> str:
    """Return a number of tokens in two digits: 0.69, 12, 3.4k; None is one without end."""
    if tokens is None or tokens > _ENDLESS:
        return "> 10M"
    for factor, unit in ((1e6, "M"), (1e3, "k"), (1, "")):
        if tokens >= 0.995 * factor or factor == 1:
            return f"{float(f'{tokens / factor:.2g}'):g}{unit}"
    raise AssertionError("the last factor takes every number")


def _power(power: int) -> str:
    return duration(10.0**power) if power >= -3 else f"10{str(power).translate(_RAISED)}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _ridge(shares: Sequence[float]) -> str:
    """Return the outline of a distribution, smoothed over its neighbours, as high as the row."""
    padded = [0.0, 0.0, *shares, 0.0, 0.0]
    smooth = [
        (padded[i - 2] + 4 * padded[i - 1] + 6 * padded[i] + 4 * padded[i + 1] + padded[i + 2]) / 16
        for i in range(2, len(padded) - 2)
    ]
    most = max(smooth)
    step = 100 / len(smooth)
    points = [(step * (i + 0.5), 30 - 27 * share / most) for i, share in enumerate(smooth)]
    return f"M0 30L{' '.join(f'{x:.2f} {y:.2f}' for x, y in points)}L100 30Z"


def known(half_lives: Iterable[float | None]) -> list[float]:
    """Return the half-lives, those of channels that never forget as an endless one."""
    return [math.inf if half_life is None else half_life for half_life in half_lives]


def _median(ordered: Sequence[float]) -> float:
    return ordered[len(ordered) // 2]
