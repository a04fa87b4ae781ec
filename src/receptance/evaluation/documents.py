"""Documents to predict: texts that `receptance prepare` reads, those of a folder it made, token stores."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from receptance.data import Sources, TokenStore, open_split, open_tokenizer, read_description
from receptance.data.bare_store import is_bare_store
from receptance.data.description import FILE, TRAIN, VALIDATION
from receptance.errors import ConfigError, DataError
from receptance.evaluation.items import Asked, Document, Text, Tokens
from receptance.evaluation.perplexity import Window


def documents(path: str | Path, *, window: Window | None = None, limit: int | None = None) -> Asked:
    """Return the documents of a file, a folder, a prepared folder, or a `.bin/.idx` store.

    Of a prepared folder they are those that were held back. Their text is read back from the tokens, so that
    every model can be asked for it; those of a store alone, named by its prefix, stay tokens, whose
    tokenizer nothing tells.

    window  None predicts every document whole
    limit   take only the first so many

    Raises ConfigError for a limit below one, DataError where there is no text, or it cannot be read.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}, but it counts documents, from 1 on.")
    found = list(islice(_found(path, window), limit))
    if not found:
        raise DataError(f"{path}: there is no text in it.")
    return Asked(str(path), found)


def _found(path: str | Path, window: Window | None) -> Iterator[Document]:
    is_text = Path(path).is_file() and Path(path).suffix not in (".bin", ".idx")
    if is_bare_store(path) and not is_text:
        return _stored(TokenStore(path), window)
    is_prepared = (Path(path) / FILE).is_file()
    texts = _prepared(Path(path)) if is_prepared else (document.text for document in Sources([path]))
    return (Text.of(text, window) for text in texts if text)


def _stored(store: TokenStore, window: Window | None) -> Iterator[Tokens]:
    for index in range(store.documents):
        if tokens := tuple(store.document(index).tolist()):
            yield Tokens(tokens=tokens, window=window, source=f"{store.bin_path}, document {index:,}")


def _prepared(folder: Path) -> Iterator[str]:
    splits = read_description(folder).splits
    store = open_split(folder, VALIDATION if VALIDATION in splits else TRAIN)
    tokenizer = open_tokenizer(folder)
    return (tokenizer.decode(store.document(index).tolist()) for index in range(store.documents))
