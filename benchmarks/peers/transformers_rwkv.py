"""transformers: `RwkvForCausalLM`, which is RWKV-4.

One text: of several it reads the next token wrongly (`extract_key_value` spreads `[text, channel]` over
`[text, 1, channel]`, so that every text sees the others).
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.engine import Engine, Logits, MissingError, Request, Tokens
from receptance import checkpoints


class Transformers(Engine):
    """A model that hands its state, or its cache, from call to call under some name."""

    def __init__(self, model: Any, memory: str) -> None:  # Any: a class that transformers picks
        self.model = model.eval()
        self.memory = memory
        self.kept: Any = None

    def start(self, batch: int) -> None:
        """Begin with nothing."""
        self.kept = None

    @torch.inference_mode()
    def read(self, tokens: Tokens) -> Logits:
        """Read a span; only the last logits are asked for, where it can be asked."""
        settings = {self.memory: self.kept, "use_cache": True}
        if self.memory == "past_key_values":
            settings["logits_to_keep"] = 1
        out = self.model(torch.from_numpy(tokens), **settings)
        self.kept = out[self.memory]
        logits: Logits = out.logits[:, -1].float().numpy()
        return logits


class Rwkv(Transformers):
    """The model of RWKV-4."""

    most_texts = 1


def open_engine(request: Request) -> Engine:
    """Write the folder that transformers reads."""
    if request.matrix_format not in ("float32", "bfloat16"):
        raise MissingError("it has no integers on a CPU")
    if checkpoints.open_model(request.source).config.generation != "4":
        raise MissingError("it has RWKV-4 alone")
    folder = request.source.with_suffix("")
    if not folder.exists():
        checkpoints.convert(request.source, folder, format="transformers")
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(request.threads)
    dtype = getattr(torch, request.matrix_format)
    return Rwkv(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), "state")
