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

Where not every token is to be learnt (prompts are not, answers are), `PREFIX.mask` lies beside them: a byte a
token, 1 where it is learnt, else 0. Without it all are. Other programs do not see it.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from receptance.errors import DataError

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


def mask_file(prefix: str | Path) -> Path:
    """Return the path of the `.mask` beside a store."""
    return store_files(prefix)[0].with_suffix(".mask")


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
        self._mask = self._open_mask()

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

    @property
    def mask(self) -> NDArray[np.uint8] | None:
        """Which tokens are learnt, `[tokens]`, 0 where they are not: a read-only view; None where all are."""
        return self._mask

    def borders(self, begin: int, end: int) -> NDArray[np.int64]:
        """Return the tokens from `begin` to `end` (not included) with which documents begin, in order."""
        known = range(self.documents)
        first = bisect_left(known, begin, key=self._begin_of)
        last = bisect_left(known, end, lo=first, key=self._begin_of)
        begins = self._begins(self._borders[first:last])
        if begins.size and not (begins[0] >= begin and (np.diff(begins) >= 0).all() and begins[-1] < end):
            raise DataError(
                f"{self.idx_path}: documents {first:,} to {last - 1:,} do not follow one another in "
                f"{self.bin_path.name}. The index is damaged, or belongs to another .bin."
            )
        return np.unique(begins)

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

    def longest_document(self) -> int:
        """Return the tokens of the longest document, 0 where there is none; reads the whole index."""
        longest = 0
        for start in range(0, self.documents, ENTRIES_AT_ONCE):
            begins = self._begins(self._borders[start : start + ENTRIES_AT_ONCE + 1])
            longest = max(longest, int(np.diff(begins).max()))
        return longest

    def _begin_of(self, document: int) -> int:
        return int(self._begins(self._borders[document : document + 1])[0])

    def _begins(self, borders: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens at which documents begin; the number of tokens where only empty ones follow."""
        if borders.size and not (borders.min() >= 0 and borders.max() <= self._sizes.size):
            raise DataError(f"{self.idx_path}: a document border is not a sequence. The index is damaged.")
        begins = np.full(borders.size, self.tokens, np.int64)
        inside = borders < self._sizes.size
        begins[inside] = self._pointers[borders[inside]] // self.dtype.itemsize
        return begins

    def _open_mask(self) -> NDArray[np.uint8] | None:
        path = mask_file(self.bin_path)
        if not path.exists():
            return None
        mask = _map_bytes(path)
        if mask.size != self.tokens:
            raise DataError(
                f"{path} holds {mask.size:,} bytes, but {self.bin_path.name} {self.tokens:,} tokens, and it "
                "needs a byte for each. Prepare the folder again; without this file, every token is learnt."
            )
        return mask

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
        return DataError(
            f"{self.idx_path}: {fault}. One of the two was cut off or damaged, or they do not belong "
            "together. Copy both again, or prepare the text again."
        )

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
