"""A token as text and model grow, beside a transformer: `python -m reproduction.generation_cost`.

Each model writes in a process of its own. The transformer is a Pythia of as many layers and channels, with
the cache that transformers keeps for it. Far into a text its cache is filled with random numbers, whose
values change nothing about the time. The speed of a machine changes within minutes, and by more than what is
looked for, so the lengths take turns in random order.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

import torch
from benchmarks.long_generation import slope
from benchmarks.peers.transformers_pythia import pythia
from torch import Tensor

from receptance.inference.fresh_process import Report, call_in_fresh_process
from receptance.inference.machine import resident_bytes
from receptance.models import AnyModel
from receptance.runtimes import NativeModel
from reproduction.claim import Check, Claim, Data
from reproduction.command import main
from reproduction.models import PAPER_SIZES, PILE_VOCABULARY, random_model, shape_of
from reproduction.notebook import Notebook
from reproduction.pictures import GPT, RWKV, thousands

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import DynamicCache

Answer = TypeVar("Answer")

DTYPE = torch.bfloat16  # of the weights of both
TURNS = 12  # of RWKV at each length; those of the transformer differ by more than any noise
BEHIND = 9  # tokens that are written in a turn


@dataclass(frozen=True)
class Settings:
    """The lengths that one size is followed to, and the sizes that write one length."""

    size: tuple[int, int] = (12, 768)  # layers and channels
    tokens: int = 8_000
    window: int = 250
    lengths: tuple[int, ...] = (250, 500, 1000, 2000, 4000, 8000)  # where the transformer is looked at
    sizes: tuple[tuple[int, int], ...] = ((2, 256), (4, 512), (8, 512), (12, 768))
    tokens_of_sizes: int = 512  # as in figures 13 and 14


def measure(notebook: Notebook, settings: Settings) -> Data:
    """Return the points along the text of both models, and the totals of each size."""
    threads = torch.get_num_threads()
    device = notebook.device

    def once(part: str, work: Callable[..., Data], **arguments: object) -> Data:
        """Measure in a fresh process."""
        call = partial(work, threads=threads, device=device, **arguments)
        found: Data = notebook.once(part, lambda: call_in_fresh_process(call, lambda *progress: None))
        return found

    size, tokens = settings.size, settings.tokens_of_sizes
    lengths = {
        "RWKV-4": once("length-rwkv", rwkv, size=size, tokens=settings.tokens, window=settings.window),
        "GPT": once("length-gpt", gpt, size=size, lengths=settings.lengths),
    }
    sizes = []
    for size in settings.sizes:
        name = f"{size[0]}x{size[1]}"
        both = {
            "RWKV-4": once(f"size-rwkv-{name}", whole_rwkv, size=size, tokens=tokens),
            "GPT": once(f"size-gpt-{name}", whole_gpt, size=size, tokens=tokens),
        }
        sizes.append({"parameters": shape_of(*size).num_parameters, **both})
    return {"lengths": lengths, "sizes": sizes, "tokens_of_sizes": tokens}


def rwkv(report: Report, size: tuple[int, int], tokens: int, window: int, threads: int, device: str) -> Data:
    """Read a text, keep what is remembered after each window, and write a few tokens from there, by turns."""
    torch.set_num_threads(threads)
    model, text = _packed(size, threads, device), _text(tokens, device)
    state, states, taken = None, {}, defaultdict[int, list[float]](list)
    order = random.Random(0)
    with torch.inference_mode():
        for length in range(window, tokens + 1, window):
            _, state = model(text[:, length - window : length], state)
            states[length] = state
        for _ in range(TURNS):
            for length in order.sample(list(states), len(states)):
                state = states[length]
                for token in text[0, :BEHIND].view(-1, 1, 1):
                    seconds, (_, state) = _timed(partial(model, token, state), device)
                    taken[length].append(seconds)
    return {
        "tokens": list(states),
        "seconds": [_typical(taken[length]) for length in states],
        "remembered": [state.num_bytes for state in states.values()],
    }


def gpt(report: Report, size: tuple[int, int], lengths: Sequence[int], threads: int, device: str) -> Data:
    """Write a few tokens behind each length."""
    from transformers import DynamicCache

    torch.set_num_threads(threads)
    layers, channels = size
    model = pythia(layers, channels, DTYPE, longest=max(lengths) + BEHIND + 1).model.to(device)
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)
    seconds, remembered = [], []
    with torch.inference_mode():
        for length in lengths:
            cache = DynamicCache()
            for layer in range(layers):
                shape = 2, 1, channels // 64, length, 64
                cache.update(*torch.randn(shape, dtype=DTYPE, device=device), layer)
            write = partial(model, token, past_key_values=cache, use_cache=True)
            seconds.append(_typical([_timed(write, device)[0] for _ in range(BEHIND)][1:]))
            remembered.append(_cached_bytes(cache))
    return {"tokens": list(lengths), "seconds": seconds, "remembered": remembered}


def whole_rwkv(report: Report, size: tuple[int, int], tokens: int, threads: int, device: str) -> Data:
    """Write a text from its first token, as in figures 13 and 14; return what time and memory it takes."""
    torch.set_num_threads(threads)
    model, text = _packed(size, threads, device), _text(tokens, device)
    state, total = None, 0.0
    with torch.inference_mode():
        model(text[:, :1])
        before = _memory(device)
        for token in text[0].view(-1, 1, 1):
            seconds, (_, state) = _timed(partial(model, token, state), device)
            total += seconds
    return {"seconds": total, "memory": _memory(device) - before}


def whole_gpt(report: Report, size: tuple[int, int], tokens: int, threads: int, device: str) -> Data:
    """Write a text from its first token, as in figures 13 and 14; return what time and memory it takes."""
    from transformers import DynamicCache

    torch.set_num_threads(threads)
    model = pythia(*size, DTYPE, longest=tokens + 2).model.to(device)
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)
    with torch.inference_mode():
        model(token, past_key_values=DynamicCache(), use_cache=True)
        before, cache = _memory(device), DynamicCache()
        write = partial(model, token, past_key_values=cache, use_cache=True)
        total = sum(_timed(write, device)[0] for _ in range(tokens))
        return {"seconds": total, "memory": _memory(device) - before}


def _packed(size: tuple[int, int], threads: int, device: str) -> NativeModel | AnyModel:
    """Return a model of this size, for the native runtime if it serves this device."""
    module = random_model(*size, dtype=DTYPE, device=device)
    return NativeModel.pack(module, threads=threads) if device == "cpu" else module


def _text(tokens: int, device: str) -> Tensor:
    """Return a text that means nothing: the time does not depend on it."""
    return (torch.arange(max(tokens, BEHIND)) % PILE_VOCABULARY).to(device)[None]


def _cached_bytes(cache: DynamicCache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def _timed(work: Callable[[], Answer], device: str) -> tuple[float, Answer]:
    _synchronise(device)
    began = time.perf_counter()
    answer = work()
    _synchronise(device)
    return time.perf_counter() - began, answer


def _typical(taken: Sequence[float]) -> float:
    """Return the fastest tenth, which neighbours on the machine move least."""
    return statistics.quantiles(taken, n=10, method="inclusive")[0]


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _memory(device: str) -> int:
    """Return the bytes that are taken now."""
    return torch.cuda.memory_allocated() if device == "cuda" else resident_bytes() or 0


def judge(data: Data) -> list[Check]:
    """Straight line and constant memory of the one, growth of the other."""
    ours, theirs = (data["lengths"][name] for name in ("RWKV-4", "GPT"))
    growth, error = slope(ours["tokens"], ours["seconds"])
    their_growth, their_error = slope(theirs["tokens"], theirs["seconds"])
    longest = ours["tokens"][-1]
    share = growth * 1e-6 * longest / 1000 / ours["seconds"][0]
    r2 = r_squared(*cumulative(ours["tokens"], ours["seconds"]))
    return [
        Check(
            states="a straight line through RWKV's time since the first token has r² above 0.999",
            paper="RWKV: linear in the text (figure 7)",
            ours=f"RWKV: r² {r2:.6f} to {longest:,} tokens",
            holds=r2 > 0.999,
        ),
        Check(
            states=f"over {longest:,} tokens RWKV's time a token changes by less than 5 %",
            paper="",
            ours=f"{growth:+.2f} ± {error:.2f} µs per 1,000 tokens, {share:+.1%} in all",
            holds=abs(share) < 0.05,
        ),
        Check(
            states="the transformer's time a token grows, by more than 3 standard errors above RWKV's",
            paper="transformers: curves upwards (figure 7)",
            ours=f"transformer: {their_growth:+,.0f} ± {their_error:,.0f} µs per 1,000 tokens",
            holds=their_growth - growth > 3 * (error**2 + their_error**2) ** 0.5,
        ),
        Check(
            states="RWKV remembers as many bytes after the last token as after the first",
            paper="constant memory",
            ours=f"{ours['remembered'][-1]:,} bytes, the transformer {theirs['remembered'][-1]:,}",
            holds=len(set(ours["remembered"])) == 1 and theirs["remembered"][-1] > theirs["remembered"][0],
        ),
        *_judge_sizes(data),
    ]


def _judge_sizes(data: Data) -> list[Check]:
    """Time and memory of a fixed number of tokens, at every size."""
    tokens, sizes = data["tokens_of_sizes"], data["sizes"]
    largest = sizes[-1]
    seconds = {name: largest[name]["seconds"] for name in ("RWKV-4", "GPT")}
    memory = {name: largest[name]["memory"] / 1e6 for name in ("RWKV-4", "GPT")}
    return [
        Check(
            states=f"RWKV takes less time for {tokens} tokens at every size",
            paper="less time at every size (figure 14)",
            ours=f"{seconds['RWKV-4']:.2f} s against {seconds['GPT']:.2f} s at the largest",
            holds=all(size["RWKV-4"]["seconds"] < size["GPT"]["seconds"] for size in sizes),
        ),
        Check(
            states=f"RWKV takes less memory beside the weights for {tokens} tokens at every size",
            paper="less memory at every size (figure 13)",
            ours=f"{memory['RWKV-4']:.1f} MB against {memory['GPT']:.1f} MB at the largest",
            holds=all(size["RWKV-4"]["memory"] < size["GPT"]["memory"] for size in sizes),
        ),
    ]


def cumulative(tokens: Sequence[int], seconds: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return lengths and the time since the first token, taking the mean of two points between them."""
    x, a_token = [0.0, *map(float, tokens)], [seconds[0], *seconds]
    steps = [(x[i] - x[i - 1]) * (a_token[i] + a_token[i - 1]) / 2 for i in range(1, len(x))]
    return x, [0.0, *accumulate(steps)]


def r_squared(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the share of the variance that a straight line explains."""
    return statistics.correlation(x, y) ** 2


def draw(figure: Figure, data: Data) -> None:
    """Draw time and memory over length, and over size."""
    by_length, memory, by_size, memory_by_size = figure.subplots(1, 4)
    tokens, sizes = data["tokens_of_sizes"], data["sizes"]
    x = [size["parameters"] / 1e6 for size in sizes]
    for (name, found), colour in zip(data["lengths"].items(), (RWKV, GPT), strict=True):
        by_length.plot(
            *cumulative(found["tokens"], found["seconds"]), "o-", color=colour, label=name, markersize=2
        )
        remembered = [each / 1e6 for each in found["remembered"]]
        memory.plot(found["tokens"], remembered, "o-", color=colour, markersize=2)
        by_size.semilogy(x, [size[name]["seconds"] for size in sizes], "o-", color=colour)
        memory_by_size.plot(x, [size[name]["memory"] / 1e6 for size in sizes], "o-", color=colour)
    by_length.set(xlabel="tokens", ylabel="seconds since the first", title="time")
    memory.set(xlabel="tokens", ylabel="MB remembered", title="memory", ylim=(0, None))
    thousands(by_length)
    thousands(memory)
    by_size.set(xlabel="million parameters", ylabel=f"seconds for {tokens} tokens", title="time by size")
    memory_by_size.set(xlabel="million parameters", ylabel="MB beside the weights", title="memory by size")
    by_length.legend()


def plan() -> str:
    """The paper's sizes in float32 on one A100, where reading the weights is what takes the time."""
    bandwidth = 2.0e12  # bytes a second, of an A100 with 80 GB (NVIDIA's data sheet)
    sizes = [shape_of(*size).num_parameters for size in PAPER_SIZES.values()]
    seconds = sum(512 * 4 * parameters / bandwidth for parameters in sizes)
    return (
        f"512 tokens from each of the six sizes in float32 take at least {seconds:.0f} s on an A100 with "
        "80 GB, the time to read the weights 512 times; the largest takes "
        f"{4 * sizes[-1] / 1e9:.0f} GB. The families beside it (BLOOM, OPT, GPT-Neo, Pythia) need their "
        "published weights: about an hour in all."
    )


CLAIM = Claim(
    name="generation_cost",
    says="A token takes the same time and memory however long the text is",
    where="(section 6, figures 7, 13 and 14)",
    settings={
        "tiny": Settings(),
        "cpu": Settings(
            tokens=32_000,
            lengths=(250, 1000, 4000, 16_000, 32_000),
            sizes=((4, 512), (12, 768), (24, 1024), (24, 2048)),
        ),
        "gpu": Settings(
            size=(24, 1024),
            lengths=(250, 1000, 4000, 8000),
            sizes=((12, 768), (24, 1024), (24, 2048), (32, 2560)),
        ),
    },
    measure=measure,
    judge=judge,
    draw=draw,
    plan=plan,
    is_timed=True,
    notes=(
        "Weights are in bfloat16. On a CPU RWKV-4 runs in the native runtime and Pythia in transformers, so "
        "the distance between the two is of the programs too; the growth is of the architectures."
    ),
)

if __name__ == "__main__":
    sys.exit(main(CLAIM))
