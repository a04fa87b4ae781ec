"""Turn texts into the folder that training reads: tokens of both splits, and what they are."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receptance.data.description import (
    FILE,
    TRAIN,
    VALIDATION,
    Description,
    SplitStatistics,
    read_description,
)
from receptance.data.indexed import store_files
from receptance.data.sources import STANDARD_INPUT, Errors, Sources, keep_standard_input
from receptance.data.split import Split, digest, pieces
from receptance.data.store_writer import TokenStoreWriter
from receptance.errors import ConfigError, DataError
from receptance.tokenizers import Tokenizer, load_tokenizer, train_bpe

# Texts longer than this are tokenised in pieces, and about so many characters at a time.
CHARACTERS_AT_ONCE = 2**20
BPE_SAMPLE_CHARACTERS = 2**25
BPE_PIECE_CHARACTERS = 2**16
REPORT_EVERY = 1000  # documents, where nothing is tokenised
LISTED_CHARACTERS = 10_000  # of the names of sources, in the description
BPE = "bpe:"  # begins the name of a tokenizer that is to be learnt from the texts


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far `prepare` is."""

    stage: str  # "learning the vocabulary" or "tokenising"
    documents: int
    bytes_of_text: int  # as UTF-8
    bytes_read: int  # of the files, as they lie on the disk
    bytes_to_read: int


Report = Callable[[Progress], None]


def prepare(
    sources: str | Path | Iterable[str | Path],
    output: str | Path,
    *,
    tokenizer: Tokenizer | str | Path = "world",
    validation_fraction: float = 0.01,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    text_field: str = "text",
    errors: Errors = "strict",
    deduplicate: bool = False,
    overwrite: bool = False,
    report: Report | None = None,
) -> Description:
    """Tokenise the documents of all sources into the folder `output`, and return its description.

    For `sources`, `include`, `exclude`, `text_field` and `errors` see `Sources`, for what is held back for
    validation see `data/split.py`, for the files that are made see `data/description.py`. The tokenizer is
    one, or its name or path, or "bpe:4096", which learns a BPE of that size from a sample of the texts to
    train on. Each document ends with the tokenizer's `end_of_text`, token 0. `deduplicate` leaves out
    documents whose text has come before. Memory grows with the longest document, not with the text (and by
    about 100 bytes a document where duplicates are sought).

    Nothing takes the name of a file of `output` before all are written; whatever ends `prepare` until then,
    Ctrl-C included, leaves the folder as it was. Ended later, it leaves nothing, or, where it was replacing a
    folder, one without data.json, which nobody takes for finished.

    Raises DataError for what cannot be read and for an `output` with something in it, unless `overwrite`;
    ConfigError for arguments that make no sense; TokenizerError where there is no such tokenizer; OSError
    where the disk is full.
    """
    paths = [sources] if isinstance(sources, str | Path) else list(sources)
    output = Path(output)
    named = tokenizer.name if isinstance(tokenizer, Tokenizer) else str(tokenizer)
    with ExitStack() as stack:
        made = stack.enter_context(_folder(output, overwrite))
        piped_in = STANDARD_INPUT in map(str, paths)
        texts = Sources(
            paths,
            include=include,
            exclude=exclude,
            text_field=text_field,
            errors=errors,
            leave_out=output,
            standard_input=stack.enter_context(keep_standard_input()) if piped_in else None,
        )
        if not isinstance(tokenizer, Tokenizer) and not named.startswith(BPE):
            tokenizer = load_tokenizer(tokenizer)
        split = Split.plan((digest(text) for text in texts), validation_fraction)
        preparation = _Preparation(texts, split, deduplicate, report or (lambda progress: None))
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = train_bpe(preparation.sample(), _bpe_size(named))
        return preparation.write(output, tokenizer, named, made)


@dataclass(frozen=True)
class _Piece:
    """A document, or a part of one too long to be tokenised at once."""

    split: str
    text: str
    ends_document: bool


class _Preparation:
    """One run of `prepare`: texts, what is left out of them, and how they are parted."""

    def __init__(self, texts: Sources, split: Split, deduplicate: bool, report: Report) -> None:
        self._texts, self._split, self._deduplicate, self._report = texts, split, deduplicate, report
        self._bytes_to_read = texts.bytes_to_read()
        self.duplicates = 0

    def parts(self) -> Iterator[tuple[str, str]]:
        """Yield (split, text) of all documents."""
        seen: set[bytes] = set()
        self.duplicates = 0
        for text in self._texts:
            document = digest(text)
            if self._deduplicate:
                if document in seen:
                    self.duplicates += 1
                    continue
                seen.add(document)
            yield from self._split.parts(text, document)

    def sample(self) -> list[str]:
        """Return BPE_SAMPLE_CHARACTERS of the texts to train on: the pieces with the smallest hashes."""
        heap: list[tuple[int, str]] = []
        size = documents = read = 0
        for split, text in self.parts():
            if split != TRAIN:
                continue
            documents += 1
            for piece in pieces(text, BPE_PIECE_CHARACTERS):
                heapq.heappush(heap, (-int.from_bytes(digest(piece), "big"), piece))
                size += len(piece)
                read += len(piece.encode())
                # A piece goes only if those of smaller hashes are enough: so no order changes the sample.
                while size - len(heap[0][1]) >= BPE_SAMPLE_CHARACTERS:
                    size -= len(heapq.heappop(heap)[1])
            if documents % REPORT_EVERY == 0:
                self._report_progress("learning the vocabulary", documents, read)
        self._report_progress("learning the vocabulary", documents, read)
        return [piece for _, piece in sorted(heap)]

    def write(self, output: Path, tokenizer: Tokenizer, named: str, made: list[Path]) -> Description:
        """Tokenise all documents into the folder, describe it, and add all files to those `made`.

        `named` is what the tokenizer was called by whoever asked for it.
        """
        splits = [TRAIN, VALIDATION] if self._split.fraction else [TRAIN]
        with ExitStack() as stack:
            writers = {
                split: _SplitWriter(
                    stack.enter_context(TokenStoreWriter(output / split, tokenizer.vocabulary_size)),
                    tokenizer.end_of_text,
                )
                for split in splits
            }
            for batch in _batches(self.parts()):
                for piece, ids in zip(
                    batch, tokenizer.encode_batch([piece.text for piece in batch]), strict=True
                ):
                    writers[piece.split].add(piece, ids)
                self._report_progress(
                    "tokenising",
                    sum(writer.documents for writer in writers.values()),
                    sum(writer.bytes_of_text for writer in writers.values()),
                )
            statistics = {split: writer.statistics() for split, writer in writers.items()}
            _refuse_empty(statistics)
            _remove_description(output)
            made += [path for split in splits for path in store_files(output / split)]
        file = tokenizer.save(output)
        made += [output / FILE, *([file] if file else [])]
        description = Description(
            tokenizer=tokenizer.name,
            tokenizer_file=file.name if file else None,
            vocabulary_size=tokenizer.vocabulary_size,
            end_of_text=tokenizer.end_of_text,
            splits=statistics,
            empty=self._texts.empty,
            undecodable=self._texts.undecodable,
            duplicates=self.duplicates,
            made_by=self._made_by(named),
        )
        description.write(output)
        return description

    def _made_by(self, named: str) -> dict[str, Any]:
        texts = self._texts
        paths = [path.encode(errors="surrogateescape") for path in texts.paths]  # names may be any bytes
        return {
            "receptance": _version(),
            "sources": _first([path.decode(errors="replace") for path in paths]),
            "tokenizer": named,
            "validation_fraction": self._split.fraction,
            "include": list(texts.include),
            "exclude": list(texts.exclude),
            "text_field": texts.text_field,
            "errors": texts.errors,
            "deduplicate": self._deduplicate,
        }

    def _report_progress(self, stage: str, documents: int, bytes_of_text: int) -> None:
        self._report(
            Progress(
                stage=stage,
                documents=documents,
                bytes_of_text=bytes_of_text,
                bytes_read=self._texts.bytes_read,
                bytes_to_read=self._bytes_to_read,
            )
        )


def _first(names: Sequence[str]) -> list[str]:
    """Return as many names as a description has room for, and how many there are beside them."""
    ends = itertools.accumulate(map(len, names))
    room = sum(end <= LISTED_CHARACTERS for end in ends)
    return [*names[:room], *([f"… and {len(names) - room:,} more"] if room < len(names) else [])]


class _SplitWriter:
    """Writes the documents of one split, which may come in pieces, and counts."""

    def __init__(self, store: TokenStoreWriter, end_of_text: int) -> None:
        self._store = store
        self._end = np.array([end_of_text], store.dtype)
        self._document: list[NDArray[np.integer]] = []
        self.bytes_of_text = 0
        self._longest = 0

    @property
    def documents(self) -> int:
        return self._store.documents

    def add(self, piece: _Piece, ids: Sequence[int]) -> None:
        self.bytes_of_text += len(piece.text.encode())
        # In the smallest type at once: a list of ids takes about twenty times the room.
        self._document.append(np.array(ids, self._store.dtype))
        if piece.ends_document:
            tokens = np.concatenate([*self._document, self._end])
            self._store.append(tokens)
            self._longest = max(self._longest, tokens.size)
            self._document.clear()

    def statistics(self) -> SplitStatistics:
        return SplitStatistics(
            documents=self._store.documents,
            tokens=self._store.tokens,
            bytes_of_text=self.bytes_of_text,
            longest_document=self._longest,
        )


def _batches(parts: Iterable[tuple[str, str]]) -> Iterator[list[_Piece]]:
    """Yield the pieces of all documents in order, about CHARACTERS_AT_ONCE in a list."""
    batch: list[_Piece] = []
    size = 0
    for split, text in parts:
        left = len(text)
        for piece in pieces(text, CHARACTERS_AT_ONCE):
            left -= len(piece)
            batch.append(_Piece(split, piece, ends_document=left == 0))
            size += len(piece)
            if size >= CHARACTERS_AT_ONCE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _version() -> str:
    """Return the version of this package; the package itself may not be imported from here."""
    with suppress(PackageNotFoundError):
        return version("receptance")
    return "not installed"


def _bpe_size(name: str) -> int:
    size = name.removeprefix(BPE)
    if not (size.isascii() and size.isdecimal()):
        raise ConfigError(f'tokenizer is "{name}", but a BPE to be learnt is asked for as "{BPE}4096".')
    return int(size)


def _refuse_empty(statistics: dict[str, SplitStatistics]) -> None:
    """Refuse a split without documents, which could only confuse later."""
    if not any(split.documents for split in statistics.values()):
        raise DataError("The sources hold no text: every document is empty, or was left out.")
    for name, split in statistics.items():
        if not split.documents:
            raise DataError(
                f"The sources hold too little text for the split {name!r}. Give more, or choose another "
                "validation_fraction (0 holds nothing back)."
            )


def _remove_description(output: Path) -> None:
    """Take the seal off a folder to be replaced, and what the new contents may not replace."""
    with suppress(DataError):  # nothing there, or not finished
        vocabulary = read_description(output).tokenizer_file
        if vocabulary:
            _remove([output / Path(vocabulary).name])
    _remove([output / FILE, *store_files(output / VALIDATION)])


@contextmanager
def _folder(output: Path, overwrite: bool) -> Iterator[list[Path]]:
    """Make the folder, and yield a list for the files that are made in it.

    Where the block raises, a folder that was empty or not there is so again; hidden files do not count.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file, but the prepared data needs a folder.")
    was_there = output.exists()
    was_empty = not was_there or all(path.name.startswith(".") for path in output.iterdir())
    if not (was_empty or overwrite):
        raise DataError(
            f"{output} is not empty. Choose another folder, or replace what was prepared there (--overwrite)."
        )
    output.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        if was_empty:
            _remove(made)
        if not was_there:
            with suppress(OSError):
                output.rmdir()
        raise


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
