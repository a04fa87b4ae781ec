"""How fast we and other engines read and write text: `python -m benchmarks.inference [--output FILE]`.

`make peers` installs the others. Every engine runs in a process of its own, with the same random weights, and
they take turns, so that a busy machine slows all of them alike. What one makes of a few prompts is compared
with our torch module in float32: what is wrong does not count. Writing one text cannot be faster than the
weights are read: in the same turns as many bytes are read and nothing is done with them.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import receptance
from benchmarks.models import SHAPES, random_model
from benchmarks.peers.engine import CASES, CHECKED_TOKENS, ENGINES, Answer, Logits, Request, Tokens, serve
from benchmarks.report import add_numbers, add_output, line, publish, setting
from receptance import checkpoints
from receptance.quantization.packed import FORMATS

OURS = "receptance"
PACKAGES = ("transformers", "rwkv", "llama_cpp_python", "openvino", "nncf")
# As a share of the length of the logits: more than rounding gives, far less than anything wrong would show.
LARGEST_ERRORS = {"float32": 1e-3, "bfloat16": 0.1, "int8": 0.1, "int4": 0.5}
TEXTS = 16
MEMORY_NEEDED = 3  # times the size of the file in bfloat16, while an engine opens it


@dataclass
class Prompts:
    """What every engine has to read, and the right logits."""

    tokens: Tokens
    decoded: Logits  # after the first tokens of each
    prefilled: Logits  # after the whole first one

    @classmethod
    def of(cls, file: Path) -> Prompts:
        """Let the torch module read random prompts in float32."""
        tokens = np.random.default_rng(1).integers(0, 50_000, (TEXTS, 128))
        lm = receptance.load(file, dtype=torch.float32)
        decoded = lm(torch.from_numpy(tokens[:, :CHECKED_TOKENS]))[0][:, -1].numpy()
        return cls(tokens, decoded, lm(torch.from_numpy(tokens[:1]))[0][:, -1].numpy())

    def error(self, answer: Answer) -> float:
        """Return the largest relative error of an answer, in the length of the vectors."""
        pairs = [(answer.decoded, self.decoded[:1])]
        if answer.decoded_together is not None:
            pairs.append((answer.decoded_together, self.decoded))
        if answer.prefilled is not None:
            pairs.append((answer.prefilled, self.prefilled))
        errors = [
            np.linalg.norm(theirs[:, : ours.shape[1]] - ours) / np.linalg.norm(ours) for theirs, ours in pairs
        ]
        return float(np.max(errors))  # NaN where there is one


@dataclass
class Worker:
    """An engine in a process of its own."""

    name: str
    process: Any = None  # of the spawn context
    connection: Any = None
    problem: str | None = None
    error: float | None = None  # of its logits; None where it has weights of its own
    bytes_per_token: int | None = None
    taken: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def start(cls, name: str, request: Request, prompts: Prompts) -> Worker:
        """Start the process, wait until its engine is there, and check it; not where memory is short."""
        missing = MEMORY_NEEDED * request.source.stat().st_size - available_bytes()
        if missing > 0:
            return cls(name, problem=f"the machine lacks {missing / 1e9:.1f} GB of free memory for it")
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(name, request, theirs), daemon=True)
        process.start()
        theirs.close()
        worker = cls(name, process=process, connection=ours)
        opened = worker._receive()
        answer = None if opened is None else worker.ask("check", prompts.tokens)
        if opened is not None and answer is not None:
            same_weights, worker.bytes_per_token = opened
            worker.error = prompts.error(answer) if same_weights else None
            if worker.error is not None and not worker.error <= LARGEST_ERRORS[request.matrix_format]:
                worker.problem = f"its logits are wrong by {worker.error:.0%}"
        return worker

    def ask(self, kind: str, value: object) -> Any:  # Any: what it answers depends on the kind
        """Return the answer; None when there is none, and then `problem` says why."""
        self.connection.send((kind, value))
        return self._receive()

    def _receive(self) -> Any:
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            kind, value = "missing", f"its process ended with exit code {self.process.exitcode}"
        if kind == "missing":
            self.problem = value
            return None
        return value

    def measure(self, case: str) -> None:
        """Let it run a case for a turn."""
        if self.problem is None and (taken := self.ask("measure", case)):
            self.taken.setdefault(case, []).extend(taken)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.terminate()
            self.process.join()


def available_bytes() -> int:
    """Return the memory that Linux could give to a process now."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def tokens_of(case: str) -> int:
    return int(case.split()[1])


def rate(worker: Worker, case: str) -> tuple[float, float] | None:
    """Return tokens a second, best and median."""
    taken = worker.taken.get(case)
    return (tokens_of(case) / min(taken), tokens_of(case) / statistics.median(taken)) if taken else None


def cells(worker: Worker, ours: Worker, case: str) -> list[str]:
    """Return the rate, and how many times as fast we are."""
    theirs, mine = rate(worker, case), rate(ours, case)
    if theirs is None:
        return ["", ""]
    shown = f"{theirs[0]:,.0f} ({theirs[1]:,.0f})"
    if mine is None or worker is ours:
        return [shown, ""]
    return [shown, f"{mine[0] / theirs[0]:.2f} ({mine[1] / theirs[1]:.2f})"]


def table(title: str, workers: Sequence[Worker]) -> Iterator[str]:
    """Yield what was measured of one model in one format."""
    ours = next(worker for worker in workers if worker.name == OURS)
    yield ""
    yield f"## {title}"
    yield ""
    if ours.bytes_per_token and "memory" in ours.taken and "decode 1" in ours.taken:
        readable = min(ours.bytes_per_token, 1 << 30)
        limit = readable / np.array([min(ours.taken["memory"]), statistics.median(ours.taken["memory"])])
        one = rate(ours, "decode 1") or (0.0, 0.0)
        share = ours.bytes_per_token * np.array(one) / limit
        yield (
            f"A token reads {ours.bytes_per_token / 1e6:.0f} MB of our weights; the memory alone is read at "
            f"{limit[0] / 1e9:.1f} GB/s (median {limit[1] / 1e9:.1f}), and by us at {share[0]:.0%} of that "
            f"({share[1]:.0%}) for one text."
        )
        yield ""
    yield line(
        "", "one text", "ours is ×", "16 texts", "ours is ×", "prompt of 512", "ours is ×", "logits off by"
    )
    yield "|---|" + "---:|" * 7
    for worker in workers:
        if worker.problem is None:
            error = "own weights" if worker.error is None else f"{worker.error:.1e}"
            yield line(worker.name, *(cell for case in CASES for cell in cells(worker, ours, case)), error)
    skipped = [
        f"{worker.name}: {worker.problem.rstrip('.')}" for worker in workers if worker.problem is not None
    ]
    if skipped:
        yield ""
        yield f"Left out: {'; '.join(skipped)}."


def group(
    name: str, matrix_format: str, file: Path, prompts: Prompts, arguments: argparse.Namespace
) -> Iterator[str]:
    """Measure one model in one format, and yield its table."""
    request = Request(file, matrix_format, arguments.threads)
    workers: list[Worker] = []
    try:
        for engine in dict.fromkeys([OURS, *(arguments.engines or ENGINES)]):
            start = time.perf_counter()
            workers.append(Worker.start(engine, request, prompts))
            print(
                f"{name}, {matrix_format}: {engine} ready after {time.perf_counter() - start:.0f} s",
                file=sys.stderr,
            )
            if workers[-1].problem is not None:
                workers[-1].stop()
        for _ in range(arguments.turns):
            for case in ("memory", *CASES):
                for worker in workers:
                    if case != "memory" or worker.name == OURS:
                        worker.measure(case)
        yield from table(f"{name}, {matrix_format}", workers)
    finally:
        for worker in workers:
            worker.stop()


def report(arguments: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(arguments.threads)
    yield from setting("inference", arguments.threads)
    yield (
        f"Beside {', '.join(installed(package) for package in PACKAGES)}. Tokens a second, the best of "
        f"{arguments.turns} turns and in brackets the median. llama.cpp is built without AMX (`make peers`)."
    )
    for name in arguments.models:
        with tempfile.TemporaryDirectory(prefix="receptance-") as folder:
            file = Path(folder, "model.safetensors")
            checkpoints.save(random_model(name), file)
            prompts = Prompts.of(file)
            gc.collect()
            for matrix_format in arguments.formats:
                yield from group(name, matrix_format, file, prompts, arguments)


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_numbers(parser, {"turns": 5})
    parser.add_argument(
        "--models", nargs="+", choices=SHAPES, default=list(SHAPES)[:2], help="(default: the first two)"
    )
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=list(FORMATS)[1:], help="(default: all but float32)"
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="beside ours (default: all)")
    add_output(parser)
    arguments = parser.parse_args()
    publish("Reading and writing text", report(arguments), arguments.output)


if __name__ == "__main__":
    main()
