"""llama.cpp through `llama-cpp-python`, with RWKV-6 and 7 in GGUF files of ours."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from benchmarks.peers.engine import Engine, Logits, MissingError, Request, Tokens
from receptance import checkpoints

MOST_TEXTS = 16
SPAN = 512
QUANTISED = {"int8": "q8_0", "int4": "q4_0"}


class LlamaCpp(Engine):
    """A context of llama.cpp with a place for each text."""

    most_texts = MOST_TEXTS

    def __init__(self, file: str, threads: int, vocabulary_size: int) -> None:
        import llama_cpp

        self.library: Any = llama_cpp  # Any: functions that the package makes when it is imported
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = 1 << 16, SPAN, SPAN
        settings.n_seq_max = MOST_TEXTS
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.batch = llama_cpp.llama_batch_init(SPAN, 0, 1)
        self.vocabulary_size = vocabulary_size
        self.position = 0

    def start(self, batch: int) -> None:
        """Clear what it remembers."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        self.position = 0

    def read(self, tokens: Tokens) -> Logits:
        """Read a span of each text in one batch."""
        texts, time = tokens.shape
        batch = self.batch
        batch.n_tokens = texts * time
        for text in range(texts):
            for step in range(time):
                at = text * time + step
                batch.token[at] = int(tokens[text, step])
                batch.pos[at] = self.position + step
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = text
                batch.logits[at] = step == time - 1
        if self.library.llama_decode(self.context, batch) != 0:
            raise MissingError("llama_decode failed")
        self.position += time
        rows = [
            ctypes.cast(
                self.library.llama_get_logits_ith(self.context, text * time + time - 1),
                ctypes.POINTER(ctypes.c_float * self.vocabulary_size),
            ).contents
            for text in range(texts)
        ]
        return np.array([np.frombuffer(row, dtype=np.float32) for row in rows])


def open_engine(request: Request) -> Engine:
    """Write the GGUF file, unless it is there."""
    config = checkpoints.open_model(request.source).config
    if config.generation not in "67":
        raise MissingError(f"it does not know RWKV-{config.generation}")
    file = request.source.with_suffix(f".{request.matrix_format}.gguf")
    if not file.exists():
        quantization = QUANTISED.get(request.matrix_format)
        dtype = None if quantization else getattr(torch, request.matrix_format)
        checkpoints.convert(request.source, file, dtype=dtype, quantization=quantization)
    return LlamaCpp(str(file), request.threads, config.vocabulary_size)
