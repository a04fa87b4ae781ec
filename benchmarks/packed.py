"""How fast packed matrices are multiplied: `python -m benchmarks.packed [--output FILE]`.

One token: a product cannot be faster than its weights are read. Beside it, in the same turns, the memory is
read and nothing done with it; the matrices are larger than the cache. Several tokens: the time and the
operations of a matrix of a model's size, beside torch's own products.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.report import add_numbers, add_output, line, publish, setting
from receptance import native
from receptance.inference.machine import reading
from receptance.inference.timing import Run, take_turns
from receptance.quantization.arena import Arena
from receptance.quantization.packed import FORMATS, Format, PackedMatrix

TOKENS = (1, 2, 4, 8, 16, 64, 256)


def matrix_of(num_bytes: int, columns: int, matrix_format: Format) -> PackedMatrix:
    """Return a matrix of about so many bytes, the same rows again and again."""
    part = PackedMatrix.pack(torch.randn(256, columns), matrix_format)
    times = max(1, num_bytes // part.data.nbytes)
    data = Arena().take(times * part.data.nbytes)
    data.view(times, -1)[:] = part.data
    return PackedMatrix(data, matrix_format, times * part.rows, columns)


def one_token_table(megabytes: int, threads: int, turns: int) -> Iterator[str]:
    """Yield the table of products with one token, at every level."""
    yield ""
    yield f"## One token, {megabytes} MB of weights"
    yield ""
    yield "| | columns | bytes read only: GB/s | product: GB/s | of the read speed |"
    yield "|---|---:|---:|---:|---:|"
    for columns in (768, 2048):
        for matrix_format in FORMATS:
            matrix = matrix_of(megabytes * 1_000_000, columns, matrix_format)
            x = torch.randn(1, columns)
            cases: dict[str, Run] = {}
            for level in native.levels():
                cases[f"read: {level}"] = reading(matrix.data, threads)
                cases[level] = partial(at_level, level, partial(matrix.multiply, x, threads))
            taken = take_turns(cases, turns)
            read = min(min(taken[f"read: {level}"]) for level in native.levels())
            for level in native.levels():
                best = min(taken[level])
                speeds = [f"{matrix.data.nbytes / each / 1e9:.1f}" for each in (read, best)]
                yield line(f"{matrix_format}: {level}", str(columns), *speeds, f"{read / best:.2f}")


def at_level(level: str, run: Run) -> None:
    with native.use_level(level):
        run()


def tokens_table(rows: int, columns: int, threads: int, turns: int) -> Iterator[str]:
    """Yield the table of products with several tokens, at the best level."""
    yield ""
    yield f"## Several tokens, {rows} x {columns}: ms (10^9 operations a second)"
    yield ""
    yield line("", *(str(tokens) for tokens in TOKENS))
    yield "|---|" + "---:|" * len(TOKENS)
    weights = torch.randn(rows, columns)
    packed = [PackedMatrix.pack(weights, name) for name in FORMATS]
    cells: dict[str, list[str]] = {}
    for tokens in TOKENS:
        x = torch.randn(tokens, columns)
        cases: dict[str, Run] = {}
        for dtype in (torch.float32, torch.bfloat16):
            cases[f"torch {dtype}".replace("torch.", "")] = partial(F.linear, x.to(dtype), weights.to(dtype))
        for matrix in packed:
            cases[matrix.format] = partial(matrix.multiply, x, threads)
        for name, taken in take_turns(cases, turns).items():
            operations = 2 * rows * columns * tokens / min(taken) / 1e9
            cells.setdefault(name, []).append(f"{1e3 * min(taken):.3g} ({operations:,.0f})")
    for name, row in cells.items():
        yield line(name, *row)


def report(arguments: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(arguments.threads)
    yield from setting("packed", arguments.threads)
    yield f"{arguments.turns} turns, the best of each."
    if native.library() is None:
        yield f"Nothing measured: {native.unavailable_reason()}"
        return
    yield from one_token_table(arguments.megabytes, arguments.threads, arguments.turns)
    yield from tokens_table(3072, 768, arguments.threads, arguments.turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_numbers(parser, {"megabytes": 128, "turns": 10})
    add_output(parser)
    arguments = parser.parse_args()
    publish("Packed matrices", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
