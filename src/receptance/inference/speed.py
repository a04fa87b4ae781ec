"""How fast a model is on this machine: from the start of loading to writing many texts at once.

Writing a token means to read the weights, so no runtime is faster than the memory: beside the texts, in the
same turns, as many bytes are read and nothing is done with them. Tokens are random, which changes nothing
about the time; choosing the next one is not part of it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError
from receptance.inference.fresh_process import Report
from receptance.inference.loaded import Loaded, load
from receptance.inference.machine import peak_bytes, processor, reading, resident_bytes
from receptance.inference.reading import read
from receptance.inference.runtime import IntegerFormat, RuntimeName
from receptance.inference.timing import Run, take_turns
from receptance.models import State
from receptance.quantization.arena import Arena
from receptance.runtimes import NativeModel

MOST_TEXTS = 1024
MOST_BYTES_READ = 1 << 30  # far more than any cache; a larger model is compared with the reading of this


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    prompt_tokens  length of the prompts that are read
    tokens         how many are written to each text in a turn
    batches        how many texts are read or written at once
    turns          how often each is measured, one after the other
    threads        None: as many as torch takes
    """

    prompt_tokens: int = 512
    tokens: int = 16
    batches: tuple[int, ...] = (1, 16)
    turns: int = 5
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("prompt_tokens", "tokens", "turns"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least 1.")
        if not self.batches or not all(1 <= batch <= MOST_TEXTS for batch in self.batches):
            raise ConfigError(
                f"batches are {self.batches}, but they must be numbers of texts from 1 to {MOST_TEXTS:,}."
            )
        cores = os.cpu_count() or 1
        if self.threads is not None and not 1 <= self.threads <= cores:
            raise ConfigError(
                f"threads is {self.threads}, but it must be from 1 to this machine's {cores} cores."
            )


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So much a second: in the best turn, and in the median one."""

    best: float
    median: float

    @classmethod
    def of(cls, amount: float, seconds: Sequence[float]) -> Rate:
        """Return the rate of an amount that took so long each time."""
        return cls(best=amount / min(seconds), median=amount / statistics.median(seconds))


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured of a model, and of what.

    level                the instruction set of the native library; None where it is not used
    bytes_per_token      weights that are read to write one token: all, but of the embedding one panel or row
    load_seconds         until the model could be called
    first_token_seconds  from the start of loading until the token that follows a prompt of one was known
    process_bytes        memory of the process with the model ready, torch and Python included
    peak_bytes           the most until then
    memory_read          bytes a second, of as many bytes as a token reads; None without the native library,
                         or where the model is not on the CPU
    prefill, decode      tokens a second by the number of texts: prompts read, texts written
    """

    path: str
    generation: str
    parameters: int
    runtime: str
    dtype: str
    device: str
    processor: str
    threads: int
    level: str | None
    plan: Plan
    weight_bytes: int
    bytes_per_token: int
    load_seconds: float
    first_token_seconds: float
    process_bytes: int | None
    peak_bytes: int | None
    memory_read: Rate | None
    prefill: dict[int, Rate]
    decode: dict[int, Rate]

    @property
    def share_of_limit(self) -> float | None:
        """How fast the weights are read while one text is written, as a share of the speed of the memory."""
        if self.memory_read is None or 1 not in self.decode:
            return None
        return self.decode[1].best * self.bytes_per_token / self.memory_read.best


@torch.inference_mode()
def measure(
    report: Report,
    path: str | Path,
    plan: Plan,
    *,
    revision: str | None = None,
    dtype: torch.dtype | IntegerFormat | None = None,
    device: str = "cpu",
    runtime: RuntimeName = "auto",
) -> Speed:
    """Load a model and measure it; sets the number of torch's threads, so it wants a process of its own.

    Loading is measured as the file is found: in the system's cache or not. Raises what `load` raises.
    """
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    report("loading", 0, plan.turns)
    start = time.perf_counter()
    lm = load(path, revision=revision, dtype=dtype, device=device, runtime=runtime)
    loaded = time.perf_counter()
    int(read(lm.runtime, torch.zeros(1, 1, dtype=torch.int64))[0].argmax())
    first_token = time.perf_counter()
    process, peak = resident_bytes(), peak_bytes()
    weight_bytes, bytes_per_token = _weights(lm)
    is_native = isinstance(lm.runtime, NativeModel)
    cases = _cases(lm, plan, bytes_per_token)
    taken = take_turns(cases, plan.turns, lambda turn: report("measuring", turn, plan.turns))
    read_bytes = min(bytes_per_token, MOST_BYTES_READ)
    return Speed(
        path=str(lm.checkpoint.path),
        generation=lm.config.generation,
        parameters=lm.checkpoint.num_parameters,
        runtime="native" if is_native else "torch",
        dtype=lm.runtime.format if isinstance(lm.runtime, NativeModel) else _name(lm.model.dtype),
        device=str(lm.runtime.device),
        processor=processor(),
        threads=torch.get_num_threads(),
        level=native.level() if is_native else None,
        plan=plan,
        weight_bytes=weight_bytes,
        bytes_per_token=bytes_per_token,
        load_seconds=loaded - start,
        first_token_seconds=first_token - start,
        process_bytes=process,
        peak_bytes=peak,
        memory_read=Rate.of(read_bytes, taken["memory"]) if "memory" in taken else None,
        prefill={b: Rate.of(b * plan.prompt_tokens, taken[f"prefill {b}"]) for b in plan.batches},
        decode={b: Rate.of(b * plan.tokens, taken[f"decode {b}"]) for b in plan.batches},
    )


def _cases(lm: Loaded, plan: Plan, bytes_per_token: int) -> dict[str, Run]:
    cases: dict[str, Run] = {}
    if lm.runtime.device.type == "cpu" and native.library() is not None:
        memory = Arena().take(min(bytes_per_token, MOST_BYTES_READ)).fill_(1)
        cases["memory"] = reading(memory, torch.get_num_threads())
    for batch in plan.batches:
        cases[f"decode {batch}"] = _writing(lm, batch, plan.tokens)
    for batch in plan.batches:
        cases[f"prefill {batch}"] = _reading(lm, batch, plan.prompt_tokens)
    return cases


def _writing(lm: Loaded, batch: int, tokens: int) -> Run:
    """Return a run that goes on with texts, token by token."""
    columns = torch.split(_random_tokens(lm, batch, tokens), 1, dim=1)
    state: State | None = None

    def run() -> None:
        nonlocal state
        for column in columns:
            logits, state = read(lm.runtime, column, state)
            logits[:, 0].tolist()  # which waits until a GPU has done its work

    return run


def _reading(lm: Loaded, batch: int, tokens: int) -> Run:
    """Return a run that reads prompts from the start."""
    prompts = _random_tokens(lm, batch, tokens)
    return lambda: read(lm.runtime, prompts)[0][:, 0].tolist()


def _random_tokens(lm: Loaded, batch: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(lm.config.vocabulary_size, (batch, tokens), generator=generator)


def _weights(lm: Loaded) -> tuple[int, int]:
    """Return the bytes of the weights, and how many of them are read for a token."""
    if isinstance(lm.runtime, NativeModel):
        return lm.runtime.num_bytes, lm.runtime.bytes_per_token
    num_bytes = sum(parameter.nbytes for parameter in lm.model.parameters())
    embedding = lm.model.emb.weight
    return num_bytes, num_bytes - embedding.nbytes + embedding[0].nbytes


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
