"""From texts to training batches: sources, the prepared folder, the token store, windows of it."""

from receptance.data.description import (
    Description,
    SourceStatistics,
    SplitStatistics,
    open_split,
    open_tokenizer,
    read_description,
)
from receptance.data.indexed import TokenStore
from receptance.data.preparation import Progress, prepare
from receptance.data.sources import Sources
from receptance.data.store_writer import TokenStoreWriter
from receptance.data.windows import NOT_LEARNT, Batch, Windows

__all__ = [
    "NOT_LEARNT",
    "Batch",
    "Description",
    "Progress",
    "SourceStatistics",
    "Sources",
    "SplitStatistics",
    "TokenStore",
    "TokenStoreWriter",
    "Windows",
    "open_split",
    "open_tokenizer",
    "prepare",
    "read_description",
]
