"""All shards of a preparation: which there are, made in this process or in several, and joined in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from receptance.data.chunks import Chunk
from receptance.data.shard import ShardMaker, load_with_key
from receptance.errors import DataError

SHARD_BYTES = 2**25  # of text, about
SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A shard that is there, and what it took."""

    path: Path
    sources: Sequence[int]  # the number of each chunk's
    size: int  # bytes of the sources as they lie on the disk
    documents: int
    bytes_of_text: int


Report = Callable[[Made], None]


def make_shards(
    chunks: Iterable[tuple[int, Chunk]],
    maker: ShardMaker,
    folder: Path,
    *,
    fingerprint: str,
    processes: int,
    apart: Sequence[object],
    report: Report,
) -> list[Made]:
    """Make all shards in a folder, leave those that are there already, and return them in order.

    `chunks` come with the number of their source; sources whose entries in `apart` differ share no shard.
    Memory holds one shard's text a process.

    Raises DataError for what cannot be read, and where a process was killed.
    """
    jobs = (
        _Job(group, sources, maker.key(group, fingerprint), folder / f"{number:08}{SUFFIX}")
        for number, (sources, group) in enumerate(_groups(chunks, apart))
    )
    made: dict[Path, Made] = {}
    for shard in _make_all(jobs, maker, processes):
        made[shard.path] = shard
        report(shard)
    for path in folder.glob(f"*{SUFFIX}"):  # of another preparation
        if path not in made:
            path.unlink()
    return [made[path] for path in sorted(made)]


@dataclass(frozen=True)
class _Job:
    chunks: list[Chunk]
    sources: list[int]  # of the chunks
    key: str
    path: Path

    def done(self, maker: ShardMaker) -> Made:
        """Make the shard, unless it is there."""
        shard = load_with_key(self.path, self.key)
        if shard is None:
            shard = maker.make(self.chunks, self.key)
            shard.save(self.path)
        return Made(
            path=self.path,
            sources=self.sources,
            size=sum(chunk.size for chunk in self.chunks),
            documents=shard.sizes.size,
            bytes_of_text=int(shard.bytes_of_text.sum()),
        )


def _groups(
    chunks: Iterable[tuple[int, Chunk]], apart: Sequence[object]
) -> Iterator[tuple[list[int], list[Chunk]]]:
    """Yield (numbers of the sources of its chunks, chunks) of each shard."""
    group: list[Chunk] = []
    sources: list[int] = []
    size = 0
    for source, chunk in chunks:
        if group and (size >= SHARD_BYTES or chunk.kind == "table" or apart[source] != apart[sources[0]]):
            yield sources, group
            group, sources, size = [], [], 0
        group.append(chunk)
        sources.append(source)
        size += SHARD_BYTES if chunk.kind == "table" else len(chunk.data)
    if group:
        yield sources, group


def _make_all(jobs: Iterable[_Job], maker: ShardMaker, processes: int) -> Iterator[Made]:
    """Yield shards as they are made."""
    if processes == 1:
        for job in jobs:
            yield job.done(maker)
        return
    # New processes rather than forks: a fork of a program with threads may wait for ever.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(maker,))
    under_way: set[Future[Made]] = set()
    try:
        for job in jobs:
            with _deaf_to_ctrl_c():
                under_way.add(pool.submit(_done, job))
            if len(under_way) > processes:
                finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        while under_way:
            finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that tokenises was killed, probably because the memory did not suffice. Prepare again "
            "with fewer processes; what is done is kept."
        ) from error
    finally:
        with suppress(BrokenProcessPool):
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let processes that begin in here not hear of Ctrl-C; their parent does, and lets them finish."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# What a process of the pool was given when it began.
_MAKERS: list[ShardMaker] = []


def _begin(maker: ShardMaker) -> None:
    """Make this process ready: it ends with its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _MAKERS.append(maker)


def _end_with_parent() -> None:
    """Wait until the parent ends, however it does: a pool whose owner was killed would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _done(job: _Job) -> Made:
    return job.done(_MAKERS[0])
