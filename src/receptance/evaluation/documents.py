"""Texts to predict: of files and folders that `receptance prepare` reads, or of a folder that it made."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from receptance.data import Sources, open_split, open_tokenizer, read_description
from receptance.data.description import FILE, TRAIN, VALIDATION
from receptance.errors import DataError
from receptance.evaluation.items import Asked, Text
from receptance.evaluation.perplexity import Window


def documents(path: str | Path, *, window: Window | None = None, limit: int | None = None) -> Asked:
    """Return the texts of a file, a folder, or a prepared folder: of that, those that were held back.

    The text of a prepared folder is read back from its tokens, so that every model can be asked for it.

    window  None predicts every text whole
    limit   take only the first so many

    Raises DataError where there is no text, or it cannot be read.
    """
    prepared = (Path(path) / FILE).is_file()
    texts = _prepared(Path(path)) if prepared else (document.text for document in Sources([path]))
    found = [Text.of(text, window) for text in islice((text for text in texts if text), limit)]
    if not found:
        raise DataError(f"{path}: there is no text in it.")
    return Asked(str(path), found)


def _prepared(folder: Path) -> Iterator[str]:
    splits = read_description(folder).splits
    store = open_split(folder, VALIDATION if VALIDATION in splits else TRAIN)
    tokenizer = open_tokenizer(folder)
    return (tokenizer.decode(store.document(index).tolist()) for index in range(store.documents))
