"""What the benchmark asks of an engine, and how it is called in a process of its own."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from receptance.inference.timing import Run, take_turns

Tokens = npt.NDArray[np.int64]  # [text, time]
Logits = npt.NDArray[np.float32]  # [text, vocabulary], of what follows the last token

# Each is opened by a function `open_engine` of a module beside this one.
ENGINES = {
    "receptance": "receptance_native",
    "torch": "torch_eager",
    "torch, compiled": "torch_compiled",
    "rwkv": "rwkv_package",
    "llama.cpp": "llama_cpp_python",
    "OpenVINO": "openvino_step",
    "transformers": "transformers_rwkv",
    "transformers, Pythia": "transformers_pythia",
}
CASES = ("decode 1", "decode 16", "prefill 512")
CHECKED_TOKENS = 24


class MissingError(Exception):
    """Why an engine cannot be had here, or cannot run this model."""


class Engine(ABC):
    """A model that reads texts."""

    most_texts = 1 << 30
    reads_spans = True  # otherwise than token by token
    same_weights = True  # as the file that it was given
    bytes_per_token: int | None = None  # known of ours alone

    @abstractmethod
    def start(self, batch: int) -> None:
        """Forget everything; what is read next begins so many texts."""

    @abstractmethod
    def read(self, tokens: Tokens) -> Logits:
        """Go on with the texts."""


@dataclass(frozen=True)
class Request:
    """A model in a number format, and the threads to run it with."""

    source: Path
    matrix_format: str
    threads: int


@dataclass(frozen=True)
class Answer:
    """What an engine makes of the prompts: logits after each way of reading that it has."""

    decoded: Logits  # the first prompt alone, token by token
    decoded_together: Logits | None
    prefilled: Logits | None


def serve(engine_name: str, request: Request, connection: Connection) -> None:
    """Open an engine and do what is asked through the pipe, until it is closed: the work of a process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # some engines talk
    os.dup2(nowhere, 2)
    os.environ["OMP_NUM_THREADS"] = str(request.threads)
    try:
        engine = importlib.import_module(f"benchmarks.peers.{ENGINES[engine_name]}").open_engine(request)
        connection.send(("ready", (engine.same_weights, engine.bytes_per_token)))
        while (asked := connection.recv()) is not None:
            kind, value = asked
            connection.send(
                ("done", answer(engine, value) if kind == "check" else measure(engine, value, request))
            )
    except (MissingError, ImportError) as error:
        connection.send(("missing", str(error)))
    except Exception as error:  # whatever another program's package raises; the others are still measured
        connection.send(("missing", f"{type(error).__name__}: {error}"))


def answer(engine: Engine, prompts: Tokens) -> Answer:
    """Read the prompts in every way that is measured."""
    short = prompts[:, :CHECKED_TOKENS]
    together = None
    if len(prompts) <= engine.most_texts:
        engine.start(len(prompts))
        together = [engine.read(column) for column in np.hsplit(short, CHECKED_TOKENS)][-1].copy()
    prefilled = None
    if engine.reads_spans:
        engine.start(1)
        prefilled = engine.read(prompts[:1]).copy()
    engine.start(1)
    decoded = [engine.read(column) for column in np.hsplit(short[:1], CHECKED_TOKENS)][-1].copy()
    return Answer(decoded, together, prefilled)


def measure(engine: Engine, case: str, request: Request) -> list[float] | None:
    """Return the seconds of each run of a case in one turn; None for what the engine cannot do."""
    if case == "memory":
        return take_turns({case: memory(engine, request.threads)}, 1)[case]
    kind, _, count = case.partition(" ")
    rng = np.random.default_rng(0)
    batch, time = (1, int(count)) if kind == "prefill" else (int(count), 1)
    if batch > engine.most_texts or (kind == "prefill" and not engine.reads_spans):
        return None
    tokens = rng.integers(0, 50_000, (batch, time))
    engine.start(batch)

    def run() -> None:
        if kind == "prefill":
            engine.start(batch)
        engine.read(tokens)

    return take_turns({case: run}, 1)[case]


def memory(engine: Engine, threads: int) -> Run:
    """Return a run that reads as many bytes as our engine reads for a token."""
    from receptance.inference.machine import reading
    from receptance.quantization.arena import Arena

    if engine.bytes_per_token is None:
        raise MissingError("only our own engine says what it reads")
    return reading(Arena().take(min(engine.bytes_per_token, 1 << 30)).fill_(1), threads)
