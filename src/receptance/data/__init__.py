"""From texts to training batches: sources, the prepared folder, the token store, windows of it."""

from receptance.data.description import Description, SplitStatistics, open_split, read_description
from receptance.data.indexed import TokenStore, TokenStoreWriter
from receptance.data.windows import Windows

__all__ = [
    "Description",
    "SplitStatistics",
    "TokenStore",
    "TokenStoreWriter",
    "Windows",
    "open_split",
    "read_description",
]
