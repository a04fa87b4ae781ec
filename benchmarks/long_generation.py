"""What a token costs late in a text: `python -m benchmarks.long_generation [--output FILE]`.

RWKV-4 169M writes token after token in the native runtime. A Pythia of its size writes a few tokens behind
each of several lengths, its cache filled with random numbers, whose values change nothing about the time.
Each runs in a process of its own, whose memory is shown. A straight line through the times says what another
1,000 tokens add. The picture lies beside the report.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from matplotlib.figure import Figure

from benchmarks.models import SHAPES, random_model
from benchmarks.report import Interim, add_numbers, add_output, line, picture, publish, setting
from receptance.inference.fresh_process import Report, call_in_fresh_process
from receptance.inference.machine import resident_bytes
from receptance.quantization.packed import FORMATS, Format
from receptance.runtimes import NativeModel

MODEL = "RWKV-4 169M"
LENGTHS = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
TOKENS_BEHIND = 8  # that Pythia writes at each length


@dataclass(frozen=True)
class Point:
    """What it was like at a length."""

    tokens: int
    seconds: float  # a token, the median
    resident: int  # bytes of the process


def rwkv(report: Report, matrix_format: Format, tokens: int, window: int, threads: int) -> list[Point]:
    """Write a text, and take note after each window of tokens."""
    torch.set_num_threads(threads)
    packed = NativeModel.pack(random_model(MODEL), matrix_format, threads=threads)
    next_tokens = torch.randint(packed.config.vocabulary_size, (tokens, 1, 1))
    state, points, taken = None, [], []
    for position, token in enumerate(next_tokens, start=1):
        start = time.perf_counter()
        _, state = packed(token, state, last_only=True)
        taken.append(time.perf_counter() - start)
        if position % window == 0:
            points.append(Point(position, statistics.median(taken), resident_bytes() or 0))
            taken = []
            report("RWKV", position, tokens)
    return points


@torch.inference_mode()
def pythia(report: Report, longest: int, threads: int) -> list[Point]:
    """Write a few tokens behind each length, in bfloat16, with the cache that transformers takes itself."""
    from transformers import DynamicCache

    from benchmarks.peers.transformers_pythia import pythia as pythia_like

    torch.set_num_threads(threads)
    lengths = [length for length in LENGTHS if length <= longest]
    layers, channels = SHAPES[MODEL]
    model = pythia_like(layers, channels, torch.bfloat16, longest=max(lengths) + TOKENS_BEHIND + 1).model
    points = []
    for length in lengths:
        report("Pythia", length, longest)
        cache = DynamicCache()
        for layer in range(layers):
            keys_and_values = torch.randn(2, 1, channels // 64, length, 64, dtype=torch.bfloat16)
            cache.update(*keys_and_values, layer)
            del keys_and_values
        taken = []
        for _ in range(TOKENS_BEHIND + 1):
            start = time.perf_counter()
            model(torch.zeros(1, 1, dtype=torch.int64), past_key_values=cache, use_cache=True)
            taken.append(time.perf_counter() - start)
        points.append(Point(length, statistics.median(taken[1:]), resident_bytes() or 0))
        del cache
    return points


def slope(tokens: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the microseconds that 1,000 further tokens add to a token, and the standard error."""
    x, y = [each / 1000 for each in tokens], [1e6 * each for each in seconds]
    fitted = statistics.linear_regression(x, y)
    residuals = [b - fitted.intercept - fitted.slope * a for a, b in zip(x, y, strict=True)]
    spread = sum((a - statistics.mean(x)) ** 2 for a in x)
    return fitted.slope, (sum(r * r for r in residuals) / max(len(x) - 2, 1) / spread) ** 0.5


def drawing(curves: Mapping[str, list[Point]]) -> Figure:
    """Draw the time of a token and the memory of the process over the length of the text."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for name, points in curves.items():
        x = [point.tokens for point in points]
        style = "o-" if name.startswith("Pythia") else "-"
        time_axes.plot(x, [1000 * point.seconds for point in points], style, label=name, markersize=3)
        memory_axes.plot(x, [point.resident / 1e9 for point in points], style, label=name, markersize=3)
    time_axes.set(ylabel="milliseconds a token", title="Time")
    memory_axes.set(ylabel="GB of the process", title="Memory")
    for axes in (time_axes, memory_axes):
        axes.set(xlabel="tokens in the text", xlim=(0, None), ylim=(0, None))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    time_axes.legend(frameon=False)
    return figure


def show(stage: str, done: int, total: int) -> None:
    print(f"{stage}: {done:,} of {total:,}", file=sys.stderr)


def report(arguments: argparse.Namespace) -> Iterator[str]:
    yield from setting("long_generation", arguments.threads)
    yield (
        f"Medians of {arguments.window:,} tokens (Pythia: of {TOKENS_BEHIND}); memory of the whole process, "
        "torch included."
    )
    curves: dict[str, list[Point]] = {}
    for matrix_format in arguments.formats:
        work = partial(
            rwkv,
            matrix_format=matrix_format,
            tokens=arguments.tokens,
            window=arguments.window,
            threads=arguments.threads,
        )
        name = f"RWKV-4 169M, {matrix_format}"
        curves[name] = call_in_fresh_process(work, show)
        yield Interim(f"- {name}: {curves[name]}")
    work = partial(pythia, longest=arguments.tokens, threads=arguments.threads)
    curves["Pythia 160M of transformers, bfloat16"] = call_in_fresh_process(work, show)
    yield ""
    yield line("tokens in the text", *(f"{name}: ms a token | MB" for name in curves))
    yield "|---:|" + "---:|" * 2 * len(curves)
    for length in LENGTHS:
        if length <= arguments.tokens:
            nearest = [min(points, key=lambda p: abs(p.tokens - length)) for points in curves.values()]
            cells = (f"{1000 * p.seconds:.2f} | {p.resident / 1e6:,.0f}" for p in nearest)
            yield line(f"{length:,}", *cells)
    yield ""
    for name, points in curves.items():
        growth, error = slope([point.tokens for point in points], [point.seconds for point in points])
        first, last = points[0], points[-1]
        yield (
            f"- {name}: 1,000 further tokens add {growth:.2f} ± {error:.2f} µs to a token and "
            f"{(last.resident - first.resident) / 1000 / (last.tokens - first.tokens):.2f} MB to the process."
        )
    if arguments.output:
        yield from picture("Time and memory over the length", drawing(curves), arguments.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_numbers(parser, {"tokens": 100_000, "window": 500})
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=["int4"], help="of RWKV's matrices (default: int4)"
    )
    add_output(parser)
    arguments = parser.parse_args()
    publish("A token late in a long text", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
