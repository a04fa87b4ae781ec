"""torch.compile of our torch module: one graph for a token, its kernels made for this machine."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from benchmarks.peers.engine import Engine, MissingError, Request
from benchmarks.peers.torch_eager import Torch, model_of
from receptance.models import AnyModel, State


class Compiled(Torch):
    """A graph a number of texts, of one token each."""

    reads_spans = False  # a prompt would be a graph of its own, with the products of the eager module

    def __init__(self, model: AnyModel) -> None:
        super().__init__(model)

        def step(tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
            logits, after = model(tokens, state)
            return logits[:, -1], after

        self.step = torch.compile(step, dynamic=False)


def open_engine(request: Request) -> Engine:
    """Load the file; the graphs are compiled when they are first used."""
    if request.matrix_format not in ("float32", "bfloat16"):
        raise MissingError("its products of integers are the eager ones")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # in this process, which may not start others
    return Compiled(model_of(request))
