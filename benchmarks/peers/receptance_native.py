"""receptance: the native runtime."""

from __future__ import annotations

import torch

import receptance
from benchmarks.peers.engine import Engine, Logits, Request, Tokens
from receptance.models import State
from receptance.runtimes import NativeModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": "int8", "int4": "int4"}


class Native(Engine):
    """A model in the native runtime."""

    def __init__(self, model: NativeModel) -> None:
        self.model = model
        self.bytes_per_token = model.bytes_per_token
        self.state: State | None = None

    def start(self, batch: int) -> None:
        """Begin with no state."""
        self.state = None

    def read(self, tokens: Tokens) -> Logits:
        """Read a span."""
        logits, self.state = self.model(torch.from_numpy(tokens), self.state, last_only=True)
        return logits[:, -1].numpy()


def open_engine(request: Request) -> Engine:
    """Load the file into the native runtime."""
    torch.set_num_threads(request.threads)
    lm = receptance.load(request.source, dtype=DTYPES[request.matrix_format], runtime="native")
    assert isinstance(lm.runtime, NativeModel)
    return Native(lm.runtime)
