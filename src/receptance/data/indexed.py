"""Documents of tokens in two memory-mapped files: the `.bin/.idx` store of Megatron and RWKV-LM.

`PREFIX.bin` holds the tokens of all documents, one after the other. `PREFIX.idx`, all little-endian:

    byte 0    magic "MMIDIDX" and two zeros
    byte 9    u64    version, 1
    byte 17   u8     code of the token type, see TOKEN_TYPES
    byte 18   u64    number of sequences
    byte 26   u64    number of document borders
    byte 34   i32[]  size of each sequence, in tokens
    then      i64[]  where each sequence begins in the .bin, in bytes
    then      i64[]  document borders, counted in sequences: 0, ..., number of sequences

RWKV-LM writes each document as one sequence and ends it with token 0.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from receptance import atomic
from receptance.errors import ConfigError, DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
TOKEN_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats

LONGEST_DOCUMENT = 2**31 - 1  # sizes are 32-bit
ENTRIES_AT_ONCE = 2**20
ENTRIES_CHECKED_ON_OPENING = 2**24
TOKENS_AT_ONCE = 2**24


def store_files(prefix: str | Path) -> tuple[Path, Path]:
    """Return the paths of the `.bin` and the `.idx` that a prefix (or either path) stands for."""
    stem = str(prefix)
    if stem.endswith((".bin", ".idx")):
        stem = stem[:-4]
    return Path(f"{stem}.bin"), Path(f"{stem}.idx")


class TokenStore:
    """A store opened for reading; opening and pickling cost the same whatever its size.

    The header and the sizes of both files are always checked. The entries of the index are checked on
    opening up to 16.7 million sequences; beyond that its two ends, and each entry when it is used.

    Raises DataError, naming the file and the byte, where the store is damaged or not a store.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.bin_path, self.idx_path = store_files(prefix)
        _check_presence(self.bin_path, self.idx_path)
        index = _map_bytes(self.idx_path)
        code, sequences = _read_header(self.idx_path, index)
        self.dtype = np.dtype(TOKEN_TYPES[code])
        begin_pointers = HEADER.size + 4 * sequences
        begin_borders = begin_pointers + 8 * sequences
        self._sizes = index[HEADER.size : begin_pointers].view("<i4")
        self._pointers = index[begin_pointers:begin_borders].view("<i8")
        self._borders = index[begin_borders:].view("<i8")
        data = _map_bytes(self.bin_path)
        if data.size % self.dtype.itemsize:
            raise DataError(
                f"{self.bin_path} holds {data.size:,} bytes, but a token of {self.idx_path.name} takes "
                f"{self.dtype.itemsize}. The file was cut off, or belongs to another index."
            )
        self._flat: NDArray[np.integer] = data.view(self.dtype)
        whole = sequences <= ENTRIES_CHECKED_ON_OPENING
        self._check_sequences(whole)
        self._check_borders(whole)

    def __repr__(self) -> str:
        return (
            f"TokenStore({str(self.bin_path)[:-4]!r}: {self.documents:,} documents, {self.tokens:,} tokens)"
        )

    def __reduce__(self) -> tuple[type[TokenStore], tuple[str]]:
        return TokenStore, (str(self.bin_path.absolute())[:-4],)

    @property
    def documents(self) -> int:
        """The number of documents."""
        return self._borders.size - 1

    @property
    def tokens(self) -> int:
        """The number of tokens of all documents."""
        return self._flat.size

    @property
    def flat(self) -> NDArray[np.integer]:
        """All tokens, `[tokens]`: a read-only view of the file."""
        return self._flat

    def document(self, index: int) -> NDArray[np.integer]:
        """Return the tokens of one document, `[time]`: a read-only view of the file.

        Raises IndexError where there is no such document.
        """
        if not 0 <= index < self.documents:
            raise IndexError(f"{self.idx_path}: document {index} of {self.documents}.")
        first, end = (int(border) for border in self._borders[index : index + 2])
        if not 0 <= first <= end <= self._sizes.size:
            raise self._bad_border(index + 1)
        if first == end:
            return self._flat[:0]
        begin = int(self._pointers[first])
        finish = self._check_entries(first, end, begin)
        return self._flat[begin // self.dtype.itemsize : finish // self.dtype.itemsize]

    def check_vocabulary(self, vocabulary_size: int) -> None:
        """Read all tokens (some seconds per billion) and raise DataError unless each is a row of a model.

        Returns at once where the token type cannot express an id that is too large.
        """
        limits = np.iinfo(self.dtype)
        if limits.min == 0 and limits.max < vocabulary_size:
            return
        for start in range(0, self.tokens, TOKENS_AT_ONCE):
            span = self._flat[start : start + TOKENS_AT_ONCE]
            if span.min() >= 0 and span.max() < vocabulary_size:
                continue
            position = start + int(np.argmax((span < 0) | (span >= vocabulary_size)))
            raise DataError(
                f"{self.bin_path}: token {position:,} is {self._flat[position]}, but a vocabulary of "
                f"{vocabulary_size:,} has the ids 0 to {vocabulary_size - 1:,}. The store was made with "
                "another tokenizer; prepare it again, or choose a model of its vocabulary."
            )

    def _check_sequences(self, whole: bool) -> None:
        count = self._sizes.size
        end = 0
        if whole or count <= 2 * ENTRIES_AT_ONCE:
            end = self._check_entries(0, count, 0)
        else:
            self._check_entries(0, ENTRIES_AT_ONCE, 0)
            last = count - ENTRIES_AT_ONCE
            end = self._check_entries(last, count, int(self._pointers[last]))
        held = self.tokens * self.dtype.itemsize
        if end != held:
            raise DataError(
                f"{self.bin_path} holds {held:,} bytes, but the documents of {self.idx_path.name} end at "
                f"byte {end:,}. One of the files was cut off, or they do not belong together."
            )

    def _check_entries(self, first: int, end: int, begin: int) -> int:
        """Check that sequences first to end (not included) follow each other from byte `begin` of the .bin.

        Returns the byte where the last one ends.
        """
        held = self.tokens * self.dtype.itemsize
        if not 0 <= begin <= held or begin % self.dtype.itemsize:
            raise self._bad_sequence(first, begin)
        for start in range(first, end, ENTRIES_AT_ONCE):
            stop = min(start + ENTRIES_AT_ONCE, end)
            sizes = self._sizes[start:stop].astype(np.int64)
            ends = begin + np.cumsum(sizes) * self.dtype.itemsize
            begins = ends - sizes * self.dtype.itemsize
            wrong = (sizes < 0) | (self._pointers[start:stop] != begins) | (ends > held)
            if wrong.any():
                offset = int(np.argmax(wrong))
                raise self._bad_sequence(start + offset, int(begins[offset]))
            begin = int(ends[-1])
        return begin

    def _bad_sequence(self, sequence: int, expected: int) -> DataError:
        size, pointer = int(self._sizes[sequence]), int(self._pointers[sequence])
        size_at = HEADER.size + 4 * sequence
        pointer_at = HEADER.size + 4 * self._sizes.size + 8 * sequence
        held = self.tokens * self.dtype.itemsize
        if size < 0:
            fault = f"byte {size_at:,} gives sequence {sequence:,} a size of {size:,} tokens"
        elif pointer != expected or pointer % self.dtype.itemsize:
            fault = (
                f"byte {pointer_at:,} lets sequence {sequence:,} begin at byte {pointer:,} of "
                f"{self.bin_path.name}, but the one before it ends at byte {expected:,}"
            )
        else:
            fault = (
                f"byte {size_at:,} gives sequence {sequence:,} a size of {size:,} tokens, which ends at byte "
                f"{pointer + size * self.dtype.itemsize:,} of {self.bin_path.name}, but that holds {held:,}"
            )
        return DataError(f"{self.idx_path}: {fault}. The index is damaged, or belongs to another .bin.")

    def _check_borders(self, whole: bool) -> None:
        count = self._borders.size
        if self._borders[0] != 0:
            raise self._bad_border(0)
        if self._borders[-1] != self._sizes.size:
            raise self._bad_border(count - 1)
        spans = range(0, count, ENTRIES_AT_ONCE)
        for start in spans if whole else (0, max(0, count - ENTRIES_AT_ONCE)):
            falls = np.diff(self._borders[start : start + ENTRIES_AT_ONCE + 1]) < 0
            if falls.any():
                raise self._bad_border(start + 1 + int(np.argmax(falls)))

    def _bad_border(self, border: int) -> DataError:
        position = HEADER.size + 12 * self._sizes.size + 8 * border
        return DataError(
            f"{self.idx_path}: byte {position:,} sets document border {border:,} at sequence "
            f"{int(self._borders[border]):,}. Borders must rise from 0 to {self._sizes.size:,}. "
            "The index is damaged."
        )


class TokenStoreWriter:
    """A store to be written, as a context manager: both files appear, complete, when the block ends well.

    When the block raises, nothing appears, and a store of the same name stays as it was.

        with TokenStoreWriter("data/train", tokenizer.vocabulary_size) as writer:
            writer.append([*tokenizer.encode(text), 0])

    The files are, byte for byte, those of RWKV-LM's builder. Tokens take two bytes where the vocabulary has
    at most 65,536 entries, else four.

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

    def append(self, tokens: Sequence[int] | NDArray[np.integer]) -> None:
        """Write one document, its end token included.

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
        self._file.write(document.astype(self.dtype).data)
        self._sizes.append(document.size)
        self.tokens += document.size

    @contextmanager
    def _files(self) -> Iterator[BinaryIO]:
        """Yield the open .bin. The .idx takes its name last, because without it there is no store."""
        bin_is_in_place = False
        try:
            with atomic.write(self.idx_path) as idx:
                with atomic.write(self.bin_path) as data:
                    with data.open("wb") as file:
                        yield file
                    self._write_index(idx)
                    self.idx_path.unlink(missing_ok=True)  # never an old index beside a new .bin
                bin_is_in_place = True
        except BaseException:
            if bin_is_in_place:
                self.bin_path.unlink(missing_ok=True)
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


def _check_presence(bin_path: Path, idx_path: Path) -> None:
    prefix = Path(str(bin_path)[:-4])
    try:
        missing = [path for path in (bin_path, idx_path) if not path.is_file()]
    except OSError as error:
        raise DataError(f"{prefix}: cannot be the name of a token store: {error.strerror}.") from error
    if len(missing) == 2 and prefix.is_dir():
        raise DataError(
            f"{prefix} is a folder, but a token store is named by its prefix: {prefix / 'train'} for "
            f"{prefix / 'train.bin'} and {prefix / 'train.idx'}."
        )
    if missing:
        raise DataError(
            f"{missing[0]}: no such file, but a token store needs both {bin_path.name} and {idx_path.name}. "
            "Make a store with `receptance prepare`."
        )


def _map_bytes(path: Path) -> NDArray[np.uint8]:
    try:
        if path.stat().st_size == 0:
            return np.empty(0, np.uint8)
        # A plain view, because slices of np.memmap are slow to make.
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def _read_header(path: Path, index: NDArray[np.uint8]) -> tuple[int, int]:
    """Return (code of the token type, number of sequences), checked against the size of the file."""
    if index.size < HEADER.size:
        raise DataError(
            f"{path} ends at byte {index.size}, within its header of {HEADER.size} bytes. "
            "It was cut off, or is not the index of a token store."
        )
    magic, version, code, sequences, borders = HEADER.unpack(index[: HEADER.size].tobytes())
    if magic != MAGIC:
        raise DataError(
            f"{path}: byte 0 begins with {magic!r}, but the index of a token store with {MAGIC!r}."
        )
    if version != VERSION:
        raise DataError(f"{path}: byte 9 gives version {version}, but only version {VERSION} is known.")
    if code not in TOKEN_TYPES:
        kinds = "floating-point numbers" if code in (6, 7) else "an unknown type"
        raise DataError(
            f"{path}: byte 17 gives token type {code} ({kinds}), but tokens are one of {sorted(TOKEN_TYPES)}."
        )
    needed = HEADER.size + 12 * sequences + 8 * borders
    if borders < 1 or needed != index.size:
        raise DataError(
            f"{path}: byte 18 announces {sequences:,} sequences and {borders:,} document borders, which take "
            f"{needed:,} bytes (with at least one border), but the file has {index.size:,} bytes. "
            "It was cut off or damaged."
        )
    return code, sequences
