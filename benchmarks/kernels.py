"""How fast the operators are, and what one would use instead: `python -m benchmarks.kernels [--output FILE]`.

Rows of a table take turns, so that a busy machine slows all of them alike; a turn lasts at least a twentieth
of a second. Forward + backward goes through autograd, as in training, with the allocator tuned. The limit of
WKV-4 is the memory: beside each time stands the share of the speed at which torch.add moves as many bytes.
What bounds WKV-6 and WKV-7 is said in `benchmarks/matrix.py`.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import matrix
from benchmarks.limits import addition
from benchmarks.report import add_numbers, add_output, line, milliseconds, publish, setting
from receptance import kernels, native
from receptance.inference.timing import Run, take_turns

Function = Callable[..., Tensor]


def wkv4_inputs(batch: int, time: int, channel: int, dtype: torch.dtype) -> list[Tensor]:
    """Return k, v, w, u, a, b, p before the first token, with the decays of a new model."""
    k, v = torch.randn(2, batch, time, channel).to(dtype)
    w = -torch.exp(-5 + 8 * torch.linspace(0, 1, channel))
    sums = [torch.zeros(batch, channel), torch.zeros(batch, channel), torch.full((batch, channel), -1e38)]
    return [k.clone(), v.clone(), w, 0.3 * torch.randn(channel), *sums]


def wkv4_of_transformers(k: Tensor, v: Tensor, w: Tensor, u: Tensor, *_: Tensor) -> Tensor:
    """Call the loop that transformers runs on a CPU; it takes the logarithm of the decay rate."""
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    y: Tensor
    y, _ = rwkv_linear_attention_cpu(torch.log(-w), u, k, v)  # type: ignore[no-untyped-call]  # transformers
    return y


def ours(k: Tensor, v: Tensor, w: Tensor, u: Tensor, a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    return kernels.wkv4(k, v, w, u, (a, b, p))[0]


@contextmanager
def by(implementation: str, level: str | None = None) -> Iterator[None]:
    """Use one of our implementations inside the block, at one level."""
    with ExitStack() as stack:
        stack.enter_context(kernels.use(wkv4=implementation))
        if level:
            stack.enter_context(native.use_level(level))
        yield


# Each row of the tables of WKV-4: what to be inside of, and what to call.
ROWS: dict[str, tuple[Callable[[], AbstractContextManager[None]], Function]] = {
    **{f"native {level}": (partial(by, "native", level), ours) for level in native.levels()},
    "scan": (partial(by, "scan"), ours),
    "reference: loop over unbound tokens": (partial(by, "reference"), ours),
    "transformers: loop over indexed tokens": (nullcontext, wkv4_of_transformers),
}
BEST = next(iter(reversed([name for name in ROWS if name.startswith("native")])), "scan")


def forward(row: str, inputs: list[Tensor]) -> Run:
    context, function = ROWS[row]

    def run() -> None:
        with context(), torch.inference_mode():
            function(*inputs)

    return run


def forward_and_backward(row: str, inputs: list[Tensor]) -> Run:
    context, function = ROWS[row]
    leaves = [x.clone().requires_grad_() for x in inputs[:4]]
    grad = torch.randn_like(inputs[1])

    def run() -> None:
        with context():
            torch.autograd.grad(function(*leaves, *inputs[4:]), leaves, grad)

    return run


def wkv4_table(batch: int, time: int, channel: int, turns: int) -> Iterator[str]:
    """Yield the table of every implementation, in both precisions."""
    yield ""
    yield f"## WKV-4, batch {batch}, {time} tokens, {channel} channels"
    yield ""
    yield "| | forward: best, ms | median | of torch.add | with backward: best, ms | median | of torch.add |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for dtype in (torch.float32, torch.bfloat16):
        inputs = wkv4_inputs(batch, time, channel, dtype)
        # Forward reads k and v and writes y. Back, k, v and the gradient of y are read and the gradients of k
        # and v written; between the two, three sums of every 16th token.
        tensors = {"forward": 3.0, "both": 8.0 + 2 * 3 / 16 * 4 / inputs[0].element_size()}
        size = inputs[0].numel() * inputs[0].element_size()
        cases = {part: addition(round(size * count), dtype) for part, count in tensors.items()}
        for name in ROWS:
            cases[f"{name}, forward"] = forward(name, inputs)
            cases[f"{name}, both"] = forward_and_backward(name, inputs)
        taken = take_turns(cases, turns)
        short = str(dtype).removeprefix("torch.")
        both = (milliseconds(taken["forward"]), milliseconds(taken["both"]))
        yield line(f"{short}: torch.add of as many bytes", *both[0], "1", *both[1], "1")
        for name in ROWS:
            cells = []
            for part in tensors:
                share = min(taken[part]) / min(taken[f"{name}, {part}"])
                cells += [*milliseconds(taken[f"{name}, {part}"]), f"{share:.2g}"]
            yield line(f"{short}: {name}", *cells)


def linearity_table(channel: int, turns: int) -> Iterator[str]:
    """Yield the cost of a token by the length of the text."""
    lengths = [128 << i for i in range(8)]
    cases = {
        str(time): forward_and_backward(BEST, wkv4_inputs(1, time, channel, torch.float32))
        for time in lengths
    }
    taken = take_turns(cases, turns)
    yield ""
    yield f"## Linear in the length: WKV-4 forward + backward, batch 1, {channel} channels, float32"
    yield ""
    yield "| tokens | best, ms | median | best, us a token |"
    yield "|---:|---:|---:|---:|"
    for length in lengths:
        yield line(
            str(length), *milliseconds(taken[str(length)]), f"{1e6 * min(taken[str(length)]) / length:.3f}"
        )
    points = [(math.log(time), math.log(min(taken[str(time)]))) for time in lengths[2:]]
    slope = statistics.linear_regression(*zip(*points, strict=True)).slope
    yield ""
    yield f"From {lengths[2]} tokens on, time grows as the {slope:.3f}th power of the length."


def one_token_table(channel: int, turns: int) -> Iterator[str]:
    """Yield the cost of the call that generation makes in every layer."""
    inputs = wkv4_inputs(1, 1, channel, torch.float32)
    taken = take_turns({name: forward(name, inputs) for name in ROWS}, turns)
    yield ""
    yield f"## One token: WKV-4 forward, batch 1, {channel} channels, float32, Python included"
    yield ""
    yield "| | best, us | median |"
    yield "|---|---:|---:|"
    for name, durations in taken.items():
        yield line(name, *(f"{1e6 * x:.1f}" for x in (min(durations), statistics.median(durations))))


def cross_entropy_by(implementation: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def call(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        with kernels.use(linear_cross_entropy=implementation):
            return kernels.linear_cross_entropy(hidden, weight, targets)[0]

    return call


def cross_entropy_of_torch(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Compute what a training loop writes down: the logits, widened, and torch's loss."""
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


def cross_entropy_table(tokens: int, vocabulary: int, channel: int, turns: int) -> Iterator[str]:
    """Yield the loss with its gradients, and the time that its three matrix products alone take."""
    yield ""
    yield f"## Linear cross entropy with gradients, {tokens} x {vocabulary} x {channel}"
    yield ""
    yield "| | best, ms | median | best beyond the three products, ms |"
    yield "|---|---:|---:|---:|"
    functions = {name: cross_entropy_by(name) for name in kernels.available("linear_cross_entropy")[:2]}
    functions["torch's cross entropy"] = cross_entropy_of_torch
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [torch.randn(n, channel).to(dtype).requires_grad_() for n in (tokens, vocabulary)]
        targets = torch.randint(vocabulary, (tokens,))
        cases: dict[str, Run] = {"the three products alone": products(*(leaf.detach() for leaf in leaves))}
        for name, function in functions.items():
            cases[name] = partial(loss_with_gradients, function, leaves, targets)
        taken = take_turns(cases, turns)
        products_alone = min(taken["the three products alone"])
        for name, durations in taken.items():
            beyond = f"{1e3 * (min(durations) - products_alone):,.0f}" if name in functions else ""
            yield line(f"{str(dtype).removeprefix('torch.')}: {name}", *milliseconds(durations), beyond)


def loss_with_gradients(function: Function, leaves: list[Tensor], targets: Tensor) -> None:
    torch.autograd.grad(function(*leaves, targets), leaves)


def products(hidden: Tensor, weight: Tensor) -> Run:
    def run() -> None:
        logits = hidden @ weight.T
        logits @ weight
        logits.T @ hidden

    return run


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """Measure, and yield the lines of the report."""
    is_tuned = kernels.tune_allocator()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    yield from setting("kernels", arguments.threads)
    yield f"Allocator {'tuned' if is_tuned else 'as it comes'}; {arguments.turns} turns."
    yield from wkv4_table(arguments.batch, arguments.time, arguments.channel, arguments.turns)
    for operator in matrix.OPERATORS:
        heads = arguments.channel // matrix.HEAD_SIZE
        yield from matrix.table(
            operator, arguments.batch, arguments.time, heads, arguments.threads, arguments.turns
        )
    yield from linearity_table(arguments.channel, arguments.turns)
    yield from one_token_table(arguments.channel, arguments.turns)
    yield from cross_entropy_table(
        arguments.batch * arguments.time, arguments.vocabulary, arguments.channel, arguments.turns
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_numbers(parser, {"batch": 4, "time": 512, "channel": 768, "vocabulary": 50277, "turns": 10})
    add_output(parser)
    arguments = parser.parse_args()
    publish("Kernels", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
