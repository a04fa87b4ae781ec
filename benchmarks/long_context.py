"""What a long context costs in training: `python -m benchmarks.long_context [--output FILE]`.

The gradient of one sample is taken with the context read whole, in chunks with the full gradient, and in
chunks with the truncated one. Each in a process of its own, whose memory is shown: the most that it had,
less what it had with the model loaded. The picture lies beside the report.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.models import SHAPES, random_model
from benchmarks.report import add_numbers, add_output, line, picture, publish, setting
from receptance import kernels
from receptance.data import Batch
from receptance.inference.fresh_process import Report, call_in_fresh_process
from receptance.inference.machine import peak_bytes, resident_bytes
from receptance.models import State
from receptance.training.chunks import ChunkGradient, backward

SHORTEST = 1024
GRADIENTS: dict[str, ChunkGradient] = {"whole": "full", "full": "full", "truncated": "truncated"}


@dataclass(frozen=True)
class Point:
    """What the gradient of a context took."""

    context: int
    bytes: int
    tokens_per_second: float


def measure(
    _: Report, model_name: str, context: int, chunk: int, gradient: ChunkGradient, threads: int
) -> Point:
    """Take the gradient of a sample of random tokens, chunk by chunk (0: in one go)."""
    torch.set_num_threads(threads)
    model = random_model(model_name)
    numbers = np.random.default_rng(0)

    def read(
        number: int, chunk: Batch, state: State | None, *, needs_loss: bool = True
    ) -> tuple[Tensor, Tensor, State]:
        hidden, end = model.features(torch.from_numpy(chunk.tokens), state)
        loss = nats = hidden.new_zeros(())
        if needs_loss:
            targets = torch.from_numpy(chunk.targets)
            loss, nats = kernels.linear_cross_entropy(hidden, model.head.weight, targets)
        return loss, nats, end

    def learn(length: int) -> None:
        tokens = numbers.integers(model.config.vocabulary_size, size=(1, length + 1))
        batch = Batch(tokens=tokens[:, :-1], targets=tokens[:, 1:].copy())
        for _part in backward(read, batch.chunks(chunk), length, gradient):
            pass  # the gradients stay with the weights

    before = resident_bytes() or 0
    learn(32)  # what is loaded and made at the first call
    start = time.perf_counter()
    learn(context)
    seconds = time.perf_counter() - start
    return Point(context, (peak_bytes() or 0) - before, context / seconds)


def drawing(curves: Mapping[str, list[Point]]) -> Figure:
    """Draw the memory over the context, both in powers of two."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(
            [p.context for p in points], [p.bytes / 1e6 for p in points], "o-", label=name, markersize=3
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="tokens of context", ylabel="MB beyond the model", title="Memory of a gradient")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def report(arguments: argparse.Namespace) -> Iterator[str]:
    yield from setting("long_context", arguments.threads)
    yield (
        f"{arguments.model} in bfloat16, one sample, chunks of {arguments.chunk:,} tokens; MB beyond the "
        "model, its gradients among them, and tokens a second, of one pass each."
    )
    yield ""
    yield line("context", *(f"{name}: MB | tokens/s" for name in GRADIENTS))
    yield "|---:|" + "---:|" * 2 * len(GRADIENTS)
    curves: dict[str, list[Point]] = {name: [] for name in GRADIENTS}
    context = SHORTEST
    while context <= arguments.longest:
        cells = []
        for name, gradient in GRADIENTS.items():
            if name == "whole" and context > arguments.whole:
                cells.append("– | –")
                continue
            work = partial(
                measure,
                model_name=arguments.model,
                context=context,
                chunk=0 if name == "whole" else arguments.chunk,
                gradient=gradient,
                threads=arguments.threads,
            )
            point = call_in_fresh_process(work, lambda *_: None)
            curves[name].append(point)
            cells.append(f"{point.bytes / 1e6:,.0f} | {point.tokens_per_second:,.0f}")
        yield line(f"{context:,}", *cells)
        context *= 2
    if arguments.output:
        yield from picture("Memory over the context", drawing(curves), arguments.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="RWKV-7 tiny", help="(default: %(default)s)")
    add_numbers(parser, {"longest": 65_536, "whole": 16_384, "chunk": 1024})
    add_output(parser)
    arguments = parser.parse_args()
    publish("The memory of a long context", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
