"""Folders of Hugging Face transformers, in both directions and in the dialects of several programs."""

from receptance.checkpoints.huggingface.folder import (
    CONFIG_FILE,
    DIALECTS,
    TOKENIZER_FILE,
    is_spoken,
    read,
    write,
    write_native,
)

__all__ = ["CONFIG_FILE", "DIALECTS", "TOKENIZER_FILE", "is_spoken", "read", "write", "write_native"]
