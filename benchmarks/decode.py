"""How fast the native runtime reads and writes text: `python -m benchmarks.decode [--output FILE]`.

Decoding cannot be faster than the weights are read: beside it, in the same turns, as many bytes are read and
nothing is done with them. The weights are random; their values change nothing about the time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable, Iterator

import torch

from benchmarks.report import add_numbers, add_output, line, publish
from receptance import native
from receptance.inference.machine import processor, reading
from receptance.inference.timing import Run, take_turns
from receptance.models import RWKV4, RWKV7, AnyModel, RWKV4Config, RWKV7Config
from receptance.quantization.arena import Arena
from receptance.quantization.packed import FORMATS, Format
from receptance.runtimes import NativeModel

MODELS: dict[str, Callable[[], AnyModel]] = {
    "RWKV-4 169M": lambda: RWKV4(RWKV4Config(vocabulary_size=50277, num_layers=12, hidden_size=768)),
    "RWKV-7 0.1B": lambda: RWKV7(RWKV7Config(vocabulary_size=65536, num_layers=12, hidden_size=768)),
}
PREFILL, BATCH = 512, 16


def model_of(name: str) -> AnyModel:
    """Return a model without zeros, which could be faster than other numbers."""
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)
    return model


def reading_text(model: NativeModel, batch: int, time: int) -> Run:
    """Return a run that goes on with a text, and keeps the logits of the last token alone."""
    tokens = torch.randint(model.config.vocabulary_size, (batch, time))
    state = model.initial_state(batch)

    def run() -> None:
        nonlocal state
        _, state = model(tokens, state, last_only=True)

    return run


def row(name: str, model: AnyModel, matrix_format: Format, threads: int, turns: int) -> str:
    """Return the figures of one model in one format."""
    packed = NativeModel.pack(model, matrix_format, threads=threads)
    embedding = model.emb.weight.numel() * (4 if matrix_format == "float32" else 2)
    num_bytes = packed.num_bytes - embedding  # a token reads one row of it
    memory = Arena().take(num_bytes).fill_(1)
    cases: dict[str, Run] = {
        "read": reading(memory, threads),
        "one": reading_text(packed, 1, 1),
        "batch": reading_text(packed, BATCH, 1),
        "prefill": reading_text(packed, 1, PREFILL),
    }
    taken = take_turns(cases, turns)
    best = {case: min(times) for case, times in taken.items()}
    return line(
        f"{name}, {matrix_format}",
        f"{num_bytes / 1e6:.0f}",
        f"{num_bytes / best['read'] / 1e9:.1f}",
        f"{1 / best['one']:,.0f} ({1 / statistics.median(taken['one']):,.0f})",
        f"{best['read'] / best['one']:.2f}",
        f"{BATCH / best['batch']:,.0f}",
        f"{PREFILL / best['prefill']:,.0f}",
    )


def report(arguments: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(arguments.threads)
    yield f"`python -m benchmarks.decode --turns {arguments.turns} --threads {arguments.threads}`"
    yield ""
    yield (
        f"{processor()}, {arguments.threads} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}; {arguments.turns} turns, the best of each (for one token also the median). "
        f"Tokens a second: one text, {BATCH} texts, a prompt of {PREFILL}."
    )
    if native.library() is None:
        yield f"Nothing measured: {native.unavailable_reason()}"
        return
    yield ""
    yield line("", "MB", "bytes read only: GB/s", "one text", "of the read speed", f"{BATCH} texts", "prompt")
    yield "|---|" + "---:|" * 6
    for name in arguments.models or MODELS:
        model = model_of(name)
        for matrix_format in arguments.formats or FORMATS:
            yield row(name, model, matrix_format, arguments.threads, arguments.turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_numbers(parser, {"turns": 20})
    parser.add_argument("--models", nargs="*", choices=MODELS, help="(default: all)")
    parser.add_argument("--formats", nargs="*", choices=FORMATS, help="(default: all)")
    add_output(parser)
    arguments = parser.parse_args()
    publish("Reading and writing text in the native runtime", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
