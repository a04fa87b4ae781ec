"""Files of llama.cpp, in both directions: the container, and how it names and shapes the models."""

from receptance.checkpoints.gguf.container import MAGIC
from receptance.checkpoints.gguf.model import (
    CHAT_TEMPLATE,
    FORMAT,
    QUANTISED,
    embedded_tokenizer,
    read,
    write,
)

__all__ = ["CHAT_TEMPLATE", "FORMAT", "MAGIC", "QUANTISED", "embedded_tokenizer", "read", "write"]
