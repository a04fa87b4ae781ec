"""Turn texts into the folder that training reads: tokens of both splits, and what they are.

The work is done in two passes. The first makes shards, files in a hidden folder of the output, in as many
processes as one likes; the second joins them in order, leaves out duplicates and repeats what has weight.
Memory holds some 32 MiB of text a process, or the longest document, and about 120 bytes a document where
duplicates are sought. The disk holds the tokens twice until the work is done.

Nothing takes the name of a file of the output before all are written. Whatever ends the work until then
leaves the folder as it was, but for finished shards, with which the same call goes on: the files that it
makes are those of a run that was not interrupted. Ended later, it leaves nothing, or, where it was replacing
a folder, one without data.json, which nobody takes for finished.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from receptance.data.chunks import Errors
from receptance.data.description import TRAIN, Description
from receptance.data.document import Document, digest
from receptance.data.prepared_folder import SHARDS, fill, new_folder
from receptance.data.shard import Shard, ShardMaker
from receptance.data.shards import SHARD_BYTES, Made, make_shards
from receptance.data.sources import STANDARD_INPUT, Sources, keep_standard_input
from receptance.data.split import Split, pieces
from receptance.errors import ConfigError
from receptance.tokenizers import Tokenizer, load_tokenizer, train_bpe

BPE_SAMPLE_CHARACTERS = 2**25
BPE_PIECE_CHARACTERS = 2**16
REPORT_EVERY = 1000  # documents, where nothing is tokenised
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
    weights: Sequence[float] = (),
    validation_fraction: float = 0.01,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    text_field: str = "text",
    errors: Errors = "strict",
    deduplicate: bool = False,
    processes: int = 1,
    overwrite: bool = False,
    report: Report | None = None,
) -> Description:
    """Tokenise the documents of all sources into the folder `output`, and return its description.

    For `sources`, `include`, `exclude`, `text_field` and `errors` see `Sources`, for what is held back for
    validation see `data/split.py`, for the files that are made see `data/description.py`. The tokenizer is
    one, or its name or path, or "bpe:4096", which learns a BPE of that size from a sample of the texts to
    train on. Each document ends with the tokenizer's `end_of_text`, token 0. `weights`, one a source, say how
    often its documents are trained on: 2 is twice, 0.5 a half of them. `deduplicate` leaves out documents
    whose text has come before. `processes` is how many tokenise, 0 for as many as pay; with more than one, a
    script that calls this needs Python's usual `if __name__ == "__main__"`.

    Raises DataError for what cannot be read, for a document that memory cannot hold, and for an `output` with
    something in it, unless `overwrite`; ConfigError for arguments that make no sense; TokenizerError where
    there is no such tokenizer. A full disk is a DataError too; what is done is kept.
    """
    paths = [sources] if isinstance(sources, str | Path) else list(sources)
    output = Path(output)
    named = tokenizer.name if isinstance(tokenizer, Tokenizer) else str(tokenizer)
    if processes < 0:
        raise ConfigError(f"processes is {processes}, but it must be at least 1, or 0 for as many as pay.")
    check_weights(paths, weights)
    with ExitStack() as stack:
        made = stack.enter_context(new_folder(output, overwrite))
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
        split = Split.plan(texts, validation_fraction)
        preparation = _Preparation(texts, split, weights, deduplicate, report)
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = train_bpe(preparation.sample(), _bpe_size(named))
        shards = preparation.shards(output / SHARDS, tokenizer, processes)
        return preparation.join(shards, output, tokenizer, named, made)


class _Preparation:
    """One run of `prepare`: texts, what is left out of them, and how they are parted."""

    def __init__(
        self,
        texts: Sources,
        split: Split,
        weights: Sequence[float],
        deduplicate: bool,
        report: Report | None,
    ) -> None:
        self._texts, self._split, self._deduplicate = texts, split, deduplicate
        self._weights = weights or [1.0] * len(texts.paths)
        self._report = report or (lambda progress: None)
        self._bytes_to_read = texts.bytes_to_read()

    def sample(self) -> list[str]:
        """Return BPE_SAMPLE_CHARACTERS of the texts to train on: the pieces with the smallest hashes."""
        heap: list[tuple[int, str]] = []
        size = documents = read = 0
        for text in self._texts_to_train_on():
            documents += 1
            for piece in pieces(text, BPE_PIECE_CHARACTERS):
                heapq.heappush(heap, (-int.from_bytes(digest(piece), "big"), piece))
                size += len(piece)
                read += len(piece.encode())
                # A piece goes only if those of smaller hashes are enough: so no order changes the sample.
                while size - len(heap[0][1]) >= BPE_SAMPLE_CHARACTERS:
                    size -= len(heapq.heappop(heap)[1])
            if documents % REPORT_EVERY == 0:
                self._report_progress("learning the vocabulary", documents, read, self._texts.bytes_read)
        self._report_progress("learning the vocabulary", documents, read, self._texts.bytes_read)
        return [piece for _, piece in sorted(heap)]

    def shards(self, folder: Path, tokenizer: Tokenizer, processes: int) -> list[Made]:
        """Tokenise all documents into shards, and return these."""
        folder.mkdir(exist_ok=True)
        maker = ShardMaker(tokenizer, self._split, self._texts.text_field, self._texts.errors)
        documents = text = read = 0

        def report(made: Made) -> None:
            nonlocal documents, text, read
            documents, text, read = documents + made.documents, text + made.bytes_of_text, read + made.size
            self._report_progress("tokenising", documents, text, read)

        return make_shards(
            self._texts.chunks(),
            maker,
            folder,
            fingerprint=fingerprint(tokenizer),
            processes=processes or self._processes_that_pay(),
            apart=self._weights,
            report=report,
        )

    def join(
        self, shards: Sequence[Made], output: Path, tokenizer: Tokenizer, named: str, made: list[Path]
    ) -> Description:
        """Join the shards in the output folder, describe it, and add all files to those `made`.

        `named` is what the tokenizer was called by whoever asked for it.
        """
        return fill(
            output,
            made,
            ((Shard.load(shard.path), shard.sources) for shard in shards),
            tokenizer,
            named,
            texts=self._texts,
            weights=self._weights,
            validation_fraction=self._split.fraction,
            deduplicate=self._deduplicate,
        )

    def _processes_that_pay(self) -> int:
        """Return one a core, but no more than there are shards to make."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(cores, self._bytes_to_read // SHARD_BYTES))

    def _texts_to_train_on(self) -> Iterator[str]:
        seen: set[bytes] = set()
        for document in self._texts:
            if self._deduplicate:
                if document.digest in seen:
                    continue
                seen.add(document.digest)
            for split, spans in self._split.parts(document):
                if split == TRAIN:
                    yield Document(spans).text

    def _report_progress(self, stage: str, documents: int, bytes_of_text: int, bytes_read: int) -> None:
        self._report(
            Progress(
                stage=stage,
                documents=documents,
                bytes_of_text=bytes_of_text,
                bytes_read=bytes_read,
                bytes_to_read=self._bytes_to_read,
            )
        )


def check_weights(paths: Sequence[str | Path], weights: Sequence[float]) -> None:
    """Raise ConfigError unless there are no weights, or one for each source that it can have."""
    if weights and len(weights) != len(paths):
        raise ConfigError(f"there are {len(weights)} weights for {len(paths)} sources; give one for each.")
    for path, weight in zip(paths, weights, strict=False):
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"the weight of {path} is {weight}, but it must be a number above 0.")


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return what tells a tokenizer from others: its name, and a hash of its file."""
    with TemporaryDirectory() as folder:
        file = tokenizer.save(Path(folder))
        contents = file.read_bytes() if file else b""
    return f"{tokenizer.name} {hashlib.sha256(contents).hexdigest()}"


def _bpe_size(name: str) -> int:
    size = name.removeprefix(BPE)
    if not (size.isascii() and size.isdecimal()):
        raise ConfigError(f'tokenizer is "{name}", but a BPE to be learnt is asked for as "{BPE}4096".')
    return int(size)
