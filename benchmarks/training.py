"""Training steps of RWKV-4 and RWKV-7 beside GPT-2: `python -m benchmarks.training [--output FILE]`.

The shapes are those of RWKV-4 169M, RWKV-7 0.1B and GPT-2 (12 layers of 768; 50,277, 65,536 and 50,257
tokens), 4 samples of 512 tokens. A step is forward, backward, gradient clipping and AdamW over float32
weights. Each row runs in a fresh process, because allocator settings hold for a whole process, and the rows
take turns, so that a busy machine slows all of them alike. MFU counts 6 FLOP a token and weight of a matrix,
against the speed of one large bfloat16 product measured in the same turns.

What each compiled kernel saves is measured within one process, which takes steps with all of them and without
one by turns: in its place works what torch has.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from benchmarks.report import Interim, add_output, publish, setting

if TYPE_CHECKING:
    from receptance.models import AnyModel

Step = Callable[[], None]

GEMM_SIZE = 2048
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Shape:
    """The sizes of the models and of a batch."""

    layers: int = 12
    hidden: int = 768
    batch: int = 4
    context: int = 512
    rwkv4_vocabulary: int = 50277
    rwkv7_vocabulary: int = 65536
    gpt_vocabulary: int = 50257

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.batch * self.context


@dataclass(frozen=True)
class Row:
    """Something that can take training steps."""

    title: str
    make: Callable[[Shape], Step]
    flops: Callable[[Shape], float]  # of a step, forward and backward


def rwkv_model(shape: Shape, generation: str) -> AnyModel:
    """Return one of our models, on the device that torch makes tensors on."""
    from receptance.models import RWKV4, RWKV7, RWKV4Config, RWKV7Config

    sizes = {"num_layers": shape.layers, "hidden_size": shape.hidden}
    if generation == "7":
        return RWKV7(RWKV7Config(vocabulary_size=shape.rwkv7_vocabulary, **sizes))
    return RWKV4(RWKV4Config(vocabulary_size=shape.rwkv4_vocabulary, **sizes))


def rwkv(shape: Shape, *, generation: str, compiled: bool = False) -> Step:
    """Return a step of ours: bfloat16 matrices with float32 masters, the allocator tuned."""
    import torch

    from receptance import kernels
    from receptance.training import OptimizerConfig
    from receptance.training.optimizer import MasterAdamW

    kernels.tune_allocator()
    torch.manual_seed(0)
    model = rwkv_model(shape, generation).cast_matrices(torch.bfloat16)
    optimizer = MasterAdamW(model, OptimizerConfig(learning_rate=6e-4, final_learning_rate=6e-4))
    tokens = torch.randint(model.config.vocabulary_size, (shape.batch, shape.context + 1))

    def loss(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hidden, _ = model.features(tokens)
        return kernels.linear_cross_entropy(hidden, model.head.weight, targets, 1e-4)[0]

    loss_function = torch.compile(loss, dynamic=False) if compiled else loss

    def step() -> None:
        loss_function(tokens[:, :-1], tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
        optimizer.collect()
        optimizer.step(6e-4, 1.0)

    return step


def gpt2(shape: Shape, *, compiled: bool, dropout: float, tuned: bool) -> Step:
    """Return a step of transformers' GPT-2 under bfloat16 autocast."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    if tuned:
        from receptance import kernels

        kernels.tune_allocator()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.gpt_vocabulary,
        n_positions=shape.context,
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=max(shape.hidden // 64, 1),
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, fused=True)
    tokens = torch.randint(shape.gpt_vocabulary, (shape.batch, shape.context))
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def gemm(shape: Shape) -> Step:
    """Return one large product, the yardstick."""
    import torch

    a, b = (torch.randn(GEMM_SIZE, GEMM_SIZE, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def step() -> None:
        torch.mm(a, b, out=out)

    return step


def gemm_flops(shape: Shape) -> float:
    """Multiplications and additions of the yardstick."""
    return 2.0 * GEMM_SIZE**3


def rwkv_flops(shape: Shape, *, generation: str) -> float:
    """All matrices but the embedding."""
    import torch

    with torch.device("meta"):
        model = rwkv_model(shape, generation)
    weights = {name: weight for name, weight in model.named_parameters() if name != "emb.weight"}
    matrices = sum(w.numel() for name, w in weights.items() if model.is_matrix(name, w.shape))
    return 6.0 * matrices * shape.tokens


def gpt2_flops(shape: Shape) -> float:
    """12 D^2 a layer, and the head; the products of attention are left out."""
    matrices = 12 * shape.hidden**2 * shape.layers + shape.gpt_vocabulary * shape.hidden
    return 6.0 * matrices * shape.tokens


ROWS = {
    "gemm": Row(f"bfloat16 product of two {GEMM_SIZE} x {GEMM_SIZE} matrices", gemm, gemm_flops),
    **{
        f"rwkv{generation}{'-compiled' if compiled else ''}": Row(
            f"receptance RWKV-{generation}{', compiled' if compiled else ''}",
            partial(rwkv, generation=generation, compiled=compiled),
            partial(rwkv_flops, generation=generation),
        )
        for generation in ("4", "7")
        for compiled in (False, True)
    },
    "gpt2": Row(
        "transformers GPT-2 as it comes: autocast, dropout 0.1, default malloc",
        partial(gpt2, compiled=False, dropout=0.1, tuned=False),
        gpt2_flops,
    ),
    "gpt2-compiled": Row(
        "transformers GPT-2 compiled, autocast, dropout 0, tuned malloc",
        partial(gpt2, compiled=True, dropout=0.0, tuned=True),
        gpt2_flops,
    ),
}


# What to leave out, and what then works in its place.
WITHOUT: dict[str, Mapping[str, str]] = {
    "none of them": {},
    "norm_mix": {"norm_mix": "reference"},
    "adamw and norm": {"adamw": "torch", "norm": "torch"},
    "linear_cross_entropy": {"linear_cross_entropy": "torch"},
    "wkv": {"wkv4": "scan", "wkv7": "chunked"},
}
TURNS = {f"rwkv{generation}-without": f"RWKV-{generation}" for generation in ("4", "7")}


def timed(step: Step) -> float:
    """Return the seconds that a step takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def work(name: str, shape: Shape, steps: int, threads: int) -> None:
    """Take steps of one row, and print the seconds of each: what a process of its own does."""
    import torch

    torch.set_num_threads(threads)
    step = ROWS[name].make(shape)
    for _ in range(WARM_UP_STEPS):
        step()
    for _ in range(steps):
        print(timed(step), flush=True)


def work_by_turns(name: str, shape: Shape, steps: int, threads: int) -> None:
    """Take steps without each of the kernels by turns, and print the seconds in the order of WITHOUT."""
    import torch

    from receptance import kernels

    torch.set_num_threads(threads)
    step = ROWS[name.removesuffix("-without")].make(shape)
    for turn in range(1 + steps):
        for choices in WITHOUT.values():
            with kernels.use(**choices):
                taken = timed(step)
            if turn:  # the first one warms up
                print(taken, flush=True)


def measure(name: str, arguments: argparse.Namespace) -> list[float]:
    """Return the seconds of each step that a fresh process took for a row."""
    words = [sys.executable, "-m", "benchmarks.training", "--worker", name, *options(arguments)]
    process = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return [float(line) for line in process.stdout.split()]


def options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that a worker shares with its parent."""
    names = ("steps", "threads", *(field.name for field in fields(Shape)))
    return [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]


def report(arguments: argparse.Namespace, shape: Shape, names: Sequence[str]) -> Iterator[str]:
    """Measure, and yield the lines of the table."""
    yield from setting("training", arguments.threads)
    yield (
        f"GPT-2 of transformers {version('transformers')}. {shape.layers} layers of {shape.hidden}, steps of "
        f"{shape.batch} x {shape.context} tokens, {arguments.rounds} rounds of {arguments.steps}."
    )
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(arguments.rounds):
        for name in names:
            found = measure(name, arguments)
            taken[name] += found
            yield Interim(f"- round {turn + 1}, {name}: {', '.join(f'{x:.4f}' for x in found)} s")
    yield ""
    yield "| a step of | best, s | median, s | best, tokens/s | median, tokens/s | best, TFLOP/s | MFU |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    peak = ROWS["gemm"].flops(shape) / min(taken["gemm"]) if "gemm" in taken else None
    for name in names:
        if name in ROWS:
            yield table_row(name, shape, taken[name], peak)
    yield from ratios(taken)
    for name in names:
        if name in TURNS:
            yield from savings(TURNS[name], taken[name])


def savings(title: str, taken: list[float]) -> Iterator[str]:
    """Yield the table of what a model's step takes without each of the kernels."""
    columns = {what: taken[number :: len(WITHOUT)] for number, what in enumerate(WITHOUT)}
    whole = columns["none of them"]
    yield ""
    yield f"| {title}, without | best, s | median, s | slower: best | median of the turns |"
    yield "|---|---:|---:|---:|---:|"
    for what, times in columns.items():
        median = statistics.median(one / all_ for one, all_ in zip(times, whole, strict=True))
        ratio = min(times) / min(whole)
        yield f"| {what} | {min(times):.3f} | {statistics.median(times):.3f} | {ratio:.3f} | {median:.3f} |"


def table_row(name: str, shape: Shape, taken: list[float], peak: float | None) -> str:
    """Return a row's line of the table."""
    best, median = min(taken), statistics.median(taken)
    speed = ROWS[name].flops(shape) / best
    tokens = (
        [f"{shape.tokens / duration:,.0f}" for duration in (best, median)] if name != "gemm" else ["", ""]
    )
    share = f"{100 * speed / peak:.1f} %" if peak else ""
    cells = [ROWS[name].title, f"{best:.4f}", f"{median:.4f}", *tokens, f"{speed / 1e12:.3f}", share]
    return f"| {' | '.join(cells)} |"


def ratios(taken: dict[str, list[float]]) -> Iterator[str]:
    """Yield how much faster each of ours is than each of theirs, in tokens a second."""
    for ours in (name for name in taken if name.startswith("rwkv") and name in ROWS):
        for theirs in ("gpt2", "gpt2-compiled"):
            if ours in taken and theirs in taken:
                best = min(taken[theirs]) / min(taken[ours])
                median = statistics.median(taken[theirs]) / statistics.median(taken[ours])
                yield ""
                yield (
                    f"{ROWS[ours].title}: {best:.2f} times as fast (median {median:.2f}) as "
                    f"{ROWS[theirs].title}."
                )


def main() -> None:
    names = [*ROWS, *TURNS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="counted steps a turn (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row (default: 3)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="rows (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads (default: all)")
    add_output(parser)
    parser.add_argument("--worker", choices=names, help=argparse.SUPPRESS)
    for field in fields(Shape):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    arguments = parser.parse_args()
    shape = Shape(**{field.name: getattr(arguments, field.name) for field in fields(Shape)})
    if arguments.worker:
        worker = work if arguments.worker in ROWS else work_by_turns
        worker(arguments.worker, shape, arguments.steps, arguments.threads)
        return
    publish("A training step", report(arguments, shape, arguments.only), arguments.output)


if __name__ == "__main__":
    main()
