"""The package `rwkv`, with its kernels compiled by TorchScript as its authors advise."""

from __future__ import annotations

import os
from typing import Any

import torch

from benchmarks.peers.engine import Engine, Logits, MissingError, Request, Tokens
from receptance import checkpoints

STRATEGIES = {"float32": "cpu fp32", "bfloat16": "cpu bf16"}


class Package(Engine):
    """A model of the package; it reads one text."""

    most_texts = 1

    def __init__(self, model: Any) -> None:  # Any: of a package without types
        self.model = model
        self.state: Any = None

    def start(self, batch: int) -> None:
        """Begin with no state."""
        self.state = None

    @torch.inference_mode()
    def read(self, tokens: Tokens) -> Logits:
        """Read a span."""
        logits, self.state = self.model.forward(tokens[0].tolist(), self.state)
        return logits.float().numpy()[None]


def open_engine(request: Request) -> Engine:
    """Write the official format, which the package reads."""
    if request.matrix_format not in STRATEGIES:
        raise MissingError("its int8 turns a matrix back into floats for every token")
    file = request.source.with_suffix(".pth")
    if not file.exists():
        checkpoints.convert(request.source, file)
    generation = checkpoints.open_model(request.source).config.generation
    os.environ |= {"RWKV_JIT_ON": "1", "RWKV_V7_ON": "1" if generation == "7" else "0"}
    from rwkv.model import RWKV

    torch.set_num_threads(request.threads)
    return Package(RWKV(model=str(file.with_suffix("")), strategy=STRATEGIES[request.matrix_format]))
