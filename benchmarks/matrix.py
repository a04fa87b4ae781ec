"""The tables of WKV-6 and WKV-7, as `benchmarks.kernels` prints them.

Two things bound a pass. The multiply-adds that the native kernel does with the memory of a head, of which a
token needs some for each number in it: to read it (one sum in WKV-6, two in WKV-7), to change it (as many
products), and to let it decay, once in a chunk of tokens. Backward, the states are first found again, without
what is read for y alone; then each of these is done twice, once for either factor. And the bytes of the
arguments and the results, moved once. The limit is the longer of the two times, measured in the same turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import limits
from benchmarks.report import line, milliseconds
from receptance import kernels
from receptance.inference.timing import Run, take_turns

HEAD_SIZE = 64
OPERATORS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"wkv6": kernels.wkv6, "wkv7": kernels.wkv7}
CHUNK = 4  # tokens, as in native/matrix_state.h
# Sums that a token reads the memory by, how many of these are not for y, and arguments as large as r.
KINDS = {"wkv6": (1, 0, 4), "wkv7": (2, 1, 6)}


def inputs_of(operator: str, batch: int, time: int, head: int) -> list[Tensor]:
    """Return the operator's arguments, with decays and keys as in a model, and a state of zeros."""
    shape = (batch, time, head, HEAD_SIZE)
    r, k, v = torch.randn(3, *shape)
    w = -torch.exp(-6 + 5.5 * torch.rand(shape))
    state = torch.zeros(batch, head, HEAD_SIZE, HEAD_SIZE)
    if operator == "wkv6":
        return [r, k, v, w, torch.randn(head, HEAD_SIZE), state]
    kappa = F.normalize(torch.randn(shape), dim=-1)
    return [r, w, k, v, -kappa, kappa * torch.rand(shape), state]


def multiply_adds(operator: str, tokens: int, head: int, backward: bool) -> float:
    """Return how many the native kernel does with the memory."""
    kinds, found_again, _ = KINDS[operator]
    forward = 2 * kinds + 1 / CHUNK
    passes = forward + (found_again + kinds + 1 / CHUNK) + 2 * forward if backward else forward
    return passes * tokens * head * HEAD_SIZE**2


def size(operator: str, tokens: int, head: int, backward: bool) -> int:
    """Return the bytes of arguments and results."""
    tensors = KINDS[operator][2]
    numbers = (tensors + 1) + (tensors + 1 + tensors if backward else 0)
    return numbers * tokens * head * HEAD_SIZE * 4


def forward(operator: str, implementation: str, threads: int, inputs: list[Tensor]) -> None:
    torch.set_num_threads(threads)
    with kernels.use(**{operator: implementation}), torch.inference_mode():
        OPERATORS[operator](*inputs)


def forward_and_backward(
    operator: str, implementation: str, threads: int, leaves: list[Tensor], grad: Tensor
) -> None:
    torch.set_num_threads(threads)
    with kernels.use(**{operator: implementation}):
        torch.autograd.grad(OPERATORS[operator](*leaves)[0], leaves, grad)


def addition(threads: int, run: Run) -> None:
    torch.set_num_threads(threads)
    run()


def table(operator: str, batch: int, time: int, head: int, threads: int, turns: int) -> Iterator[str]:
    """Yield the table of every implementation: a prompt forward, and a batch forward and backward."""
    yield ""
    yield f"## {operator.upper().replace('V', 'V-')}, {head} heads of {HEAD_SIZE}, float32"
    yield ""
    yield (
        f"| | forward of 1 x {time} tokens: best, ms | median | of the limit "
        f"| with backward, {batch} x {time} tokens: best, ms | median | of the limit |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    ways = {f"native, threads: {n}": ("native", n) for n in sorted({1, threads})}
    ways |= {f"{name}, threads: {threads}": (name, threads) for name in ("chunked", "reference")}
    cells: dict[str, list[str]] = {}
    for backward in (False, True):
        tokens = time * (batch if backward else 1)
        cases: dict[str, Run] = {}
        inputs = inputs_of(operator, batch if backward else 1, time, head)
        grad, leaves = torch.randn_like(inputs[2]), [x.clone().requires_grad_() for x in inputs]
        for name, (implementation, n) in ways.items():
            cases[name] = (
                partial(forward_and_backward, operator, implementation, n, leaves, grad)
                if backward
                else partial(forward, operator, implementation, n, inputs)
            )
        taken, least = measure(operator, tokens, head, backward, cases, sorted({1, threads}), turns)
        for name, durations in taken.items():
            limit = least[ways[name][1]] if name in ways else None
            share = f"{limit / min(durations):.2g}" if limit else ""
            cells.setdefault(name, []).extend((*milliseconds(durations), share))
    for name, row in cells.items():
        yield line(name, *row)


def measure(
    operator: str,
    tokens: int,
    head: int,
    backward: bool,
    cases: dict[str, Run],
    threads: list[int],
    turns: int,
) -> tuple[dict[str, list[float]], dict[int, float]]:
    """Return the durations of the limits and the cases, and the limit in seconds by the number of threads."""
    done: dict[str, float] = {}
    bounds: dict[str, Run] = {}
    needed = multiply_adds(operator, tokens, head, backward)
    for n in threads:
        arithmetic = limits.multiply_adds(n)
        if arithmetic:
            bounds[f"limit: the multiply-adds alone, threads: {n}"], count = arithmetic
            done[f"limit: the multiply-adds alone, threads: {n}"] = needed / count
        memory = limits.addition(size(operator, tokens, head, backward))
        bounds[f"limit: torch.add of as many bytes, threads: {n}"] = partial(addition, n, memory)
    taken = take_turns({**bounds, **cases}, turns)
    for name, share in done.items():
        taken[name] = [share * x for x in taken[name]]
    least = {n: max(min(taken[name]) for name in bounds if name.endswith(f"threads: {n}")) for n in threads}
    return taken, least
