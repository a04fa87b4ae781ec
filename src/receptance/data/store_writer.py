"""Writing the `.bin/.idx` store of `data/indexed.py`, whole or not at all."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from receptance import atomic
from receptance.data.indexed import (
    ENTRIES_AT_ONCE,
    HEADER,
    LONGEST_DOCUMENT,
    MAGIC,
    TOKEN_TYPES,
    VERSION,
    mask_file,
    store_files,
)
from receptance.errors import ConfigError, DataError


class TokenStoreWriter:
    """A store to be written, as a context manager: its files appear, complete, when the block ends well.

    When the block raises, nothing appears, and a store of the same name stays as it was.

        with TokenStoreWriter("data/train", tokenizer.vocabulary_size) as writer:
            writer.append([*tokenizer.encode(text), 0])

    The `.bin` and the `.idx` are, byte for byte, those of RWKV-LM's builder. Tokens take two bytes where the
    vocabulary has at most 65,536 entries, else four. A `.mask` is written where a document has one.

    Raises ConfigError for a vocabulary that is empty or needs more than 31 bits.
    """

    def __init__(self, prefix: str | Path, vocabulary_size: int) -> None:
        if not 1 <= vocabulary_size <= 2**31:
            raise ConfigError(f"vocabulary_size is {vocabulary_size}, but it must be 1 to {2**31}.")
        self.bin_path, self.idx_path = store_files(prefix)
        self.vocabulary_size = vocabulary_size
        self.code = 8 if vocabulary_size <= 2**16 else 4
        self.dtype = np.dtype(TOKEN_TYPES[self.code])
        self.tokens = 0
        self._sizes = array("i")
        self._open: AbstractContextManager[BinaryIO] | None = None
        self._file: BinaryIO | None = None
        self._mask: BinaryIO | None = None
        self._mask_files = ExitStack()

    @property
    def documents(self) -> int:
        """The number of documents appended so far."""
        return len(self._sizes)

    def __enter__(self) -> Self:
        self._open = self._files()
        self._file = self._open.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        files, self._open, self._file = self._open, None, None
        if files is not None:
            files.__exit__(kind, error, trace)

    def append(
        self, tokens: Sequence[int] | NDArray[np.integer], mask: NDArray[np.uint8] | None = None
    ) -> None:
        """Write one document, its end token included; `mask` has a 0 for each token that is not to be learnt.

        Raises DataError where a token is not in the vocabulary or the document exceeds 2^31 - 1 tokens.
        """
        if self._file is None:
            raise RuntimeError("append() works inside the `with` block only.")
        document = np.asarray(tokens) if len(tokens) else np.empty(0, self.dtype)
        where = f"{self.bin_path}: document {self.documents:,}"
        if document.ndim != 1 or not np.issubdtype(document.dtype, np.integer):
            raise DataError(
                f"{where} is an array {list(document.shape)} of {document.dtype}, but a document is one row "
                "of whole numbers."
            )
        if document.size > LONGEST_DOCUMENT:
            raise DataError(
                f"{where} has {document.size:,} tokens, but this format holds at most {LONGEST_DOCUMENT:,} "
                "tokens a document. Cut it into several."
            )
        if document.size and not (document.min() >= 0 and document.max() < self.vocabulary_size):
            position = int(np.argmax((document < 0) | (document >= self.vocabulary_size)))
            raise DataError(
                f"{where}: token {position:,} is {document[position]}, but the vocabulary has the ids 0 to "
                f"{self.vocabulary_size - 1:,}."
            )
        if mask is not None and mask.shape != document.shape:
            raise DataError(f"{where} has {document.size:,} tokens, but its mask {list(mask.shape)} numbers.")
        self._file.write(document.astype(self.dtype).data)
        self._write_mask(document.size, mask)
        self._sizes.append(document.size)
        self.tokens += document.size

    def _write_mask(self, size: int, mask: NDArray[np.uint8] | None) -> None:
        """Write the mask of the next `size` tokens, from the first document on that has one."""
        if self._mask is None:
            if mask is None or mask.all():
                return
            path = self._mask_files.enter_context(atomic.write(mask_file(self.bin_path)))
            self._mask = self._mask_files.enter_context(path.open("wb"))
            for start in range(0, self.tokens, ENTRIES_AT_ONCE):
                self._mask.write(bytes([1]) * min(ENTRIES_AT_ONCE, self.tokens - start))
        self._mask.write(bytes([1]) * size if mask is None else (mask != 0).astype(np.uint8).data)

    @contextmanager
    def _files(self) -> Iterator[BinaryIO]:
        """Yield the open .bin. The .idx takes its name last, because without it there is no store."""
        bin_is_in_place = False
        try:
            with atomic.write(self.idx_path) as idx, self._mask_files:
                with atomic.write(self.bin_path) as data:
                    with data.open("wb") as file:
                        yield file
                    self._write_index(idx)
                    self.idx_path.unlink(missing_ok=True)  # never an old index beside a new .bin
                    mask_file(self.bin_path).unlink(missing_ok=True)
                bin_is_in_place = True
        except BaseException:
            if bin_is_in_place:
                self.bin_path.unlink(missing_ok=True)
                mask_file(self.bin_path).unlink(missing_ok=True)
            raise

    def _write_index(self, path: Path) -> None:
        sizes = np.frombuffer(self._sizes, np.int32)
        with path.open("wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, self.code, sizes.size, sizes.size + 1))
            file.write(sizes.astype("<i4").data)
            begin = 0
            for start in range(0, sizes.size, ENTRIES_AT_ONCE):
                span = sizes[start : start + ENTRIES_AT_ONCE].astype(np.int64) * self.dtype.itemsize
                ends = begin + np.cumsum(span)
                file.write((ends - span).astype("<i8").data)
                begin = int(ends[-1])
            for start in range(0, sizes.size + 1, ENTRIES_AT_ONCE):
                file.write(np.arange(start, min(start + ENTRIES_AT_ONCE, sizes.size + 1), dtype="<i8").data)
