"""Training samples as a pure function of (seed, position), so that resuming needs nothing but the step.

A sample is a window of `context` tokens. Windows cross the borders of documents, as in RWKV-LM; with
`reset_at_borders` each is cut there into rows, and every row is read from an empty state.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from receptance.data.indexed import TokenStore
from receptance.data.order import OrderName, order_of
from receptance.errors import ConfigError, DataError

NOT_LEARNT = -100  # as a target; torch and `kernels.linear_cross_entropy` leave it out
NO_STREAM = -1  # of a row that goes on with no text that was read before
SHORTEST_ROW = 64  # rows of fewer tokens count as such, because each brings a state with it


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of tokens, and the tokens that follow one step later as their targets."""

    tokens: NDArray[np.int64]  # [batch, time]
    targets: NDArray[np.int64]  # [batch, time], NOT_LEARNT where there is nothing to learn
    lengths: NDArray[np.int64] | None = None  # [batch], what follows is padding; None: all of each row counts
    # [batch], whose state each row goes on with, and which goes on with its own: streams of the order
    # "sequential", or NO_STREAM; None: of all rows.
    from_streams: NDArray[np.int64] | None = None
    to_streams: NDArray[np.int64] | None = None

    @property
    def num_learnt(self) -> int:
        """How many targets count: the weight of the batch's mean loss beside that of others."""
        return int(np.count_nonzero(self.targets != NOT_LEARNT))

    def chunks(self, size: int) -> list[Batch]:
        """Return the batch in pieces of `size` tokens in time, of which the last may be shorter; 0: whole.

        A model that hands its state from each to the next reads what it would in one go.
        """
        time = self.tokens.shape[1]
        if not 0 < size < time:
            return [self]
        return [
            Batch(
                tokens=self.tokens[:, begin : begin + size],
                targets=self.targets[:, begin : begin + size],
                lengths=None if self.lengths is None else np.clip(self.lengths - begin, 0, size),
                from_streams=self.from_streams if begin == 0 else None,
                to_streams=self.to_streams if begin + size >= time else None,
            )
            for begin in range(0, time, size)
        ]


class Windows:
    """Windows of `context` tokens of a store, in the order of that name (see `data/order.py`).

    `len(windows)` is the number of windows an epoch. Shuffled, every token is a target exactly once in it,
    but for a rest shorter than one window, which lies elsewhere each epoch. Not learnt are the tokens that
    the store's mask leaves out, and with `reset_at_borders` the first of each document, because nothing
    comes before it. Such rows are so many at a time that, read in chunks of `chunk` tokens (0: whole), they
    take no more memory than a batch that is not cut. `num_streams` are those of the order "sequential".

    Raises DataError where the store is smaller than one window or the order needs, ConfigError for a context
    below 1 and an order that is none.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        context: int,
        seed: int = 0,
        order: OrderName = "shuffled",
        reset_at_borders: bool = False,
        chunk: int = 0,
        num_streams: int = 1,
    ) -> None:
        if operator.index(context) < 1:
            raise ConfigError(f"context is {context}, but it must be at least 1 token.")
        if store.tokens <= context:
            raise DataError(
                f"{store.bin_path} holds {store.tokens:,} tokens, but a context of {context:,} needs at "
                f"least {context + 1:,}. Prepare more text, or choose a context of at most "
                f"{store.tokens - 1:,}."
            )
        self.store = store
        self.context = context
        self.reset_at_borders = reset_at_borders
        self.chunk = chunk
        self.order = order_of(
            order, tokens=store.tokens, context=context, seed=operator.index(seed), num_streams=num_streams
        )

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, index: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[Batch]:
        """Return samples as one batch; where they are cut at borders, as one or more of about equal rows.

        Of `world_size` processes that read `batch_size` samples each, `rank` is this one: one after the
        other, their batches are that of one process that reads `batch_size * world_size`. The same arguments
        give the same batch in any process, at any time. Samples go on over epochs.
        """
        if not 0 <= rank < world_size:
            raise ConfigError(
                f"rank is {rank}, but of {world_size} processes it must be 0 to {world_size - 1}."
            )
        return self.samples((index * world_size + rank) * batch_size, batch_size)

    def samples(self, first: int, count: int) -> list[Batch]:
        """Return so many samples from one on: what `batch` returns, of any beginning."""
        if first < 0 or count < 1:
            raise ConfigError(f"{count} samples from {first} on: the first is 0, the fewest are 1.")
        samples = np.arange(first, first + count)
        return self._batches(self.order.starts(samples), self.context, self.order.streams(samples))

    def sequential(self, batch_size: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Yield batches in the order of the store: each of its first `max_tokens` targets once.

        The last full window may leave a batch with fewer rows, and a rest shorter than one window follows. So
        weigh each batch by `num_learnt`.
        """
        if batch_size < 1 or (max_tokens is not None and max_tokens < 1):
            raise ConfigError(
                f"batch_size is {batch_size}, max_tokens {max_tokens}: both must be at least 1."
            )
        count = min(self.store.tokens - 1, max_tokens or self.store.tokens)
        full = count // self.context
        for row in range(0, full, batch_size):
            starts = np.arange(row, min(row + batch_size, full)) * self.context
            yield from self._batches(starts, self.context)
        if count % self.context:
            yield from self._batches(np.array([full * self.context]), count % self.context)

    def _batches(
        self, starts: NDArray[np.int64], time: int, streams: NDArray[np.int64] | None = None
    ) -> list[Batch]:
        """Return the windows of `time` tokens that begin at `starts`; the store is a ring."""
        ring = (starts[:, None] + np.arange(time + 1)) % self.store.tokens
        windows = self.store.flat[ring].astype(np.int64)
        targets = windows[:, 1:].copy()  # a view of one row would be contiguous too, and be written to
        if self.store.mask is not None:
            targets[self.store.mask[ring[:, 1:]] == 0] = NOT_LEARNT
        tokens = windows[:, :-1].copy()
        batch = Batch(tokens=tokens, targets=targets, from_streams=streams, to_streams=streams)
        if not self.reset_at_borders:
            return [batch]
        if streams is not None:
            begins = [self.store.borders(int(start), int(start) + 1).size > 0 for start in starts]
            batch = replace(batch, from_streams=np.where(begins, NO_STREAM, streams))
        return _apart(batch, [self._borders(int(start), time) for start in starts], self.chunk or time)

    def _borders(self, start: int, time: int) -> NDArray[np.int64]:
        """Return where in a window documents begin: numbers from 1 to `time`, that of the last target."""
        end = start + time + 1
        wrapped = self.store.borders(0, max(0, end - self.store.tokens)) + self.store.tokens
        here = self.store.borders(start + 1, min(end, self.store.tokens))
        return np.concatenate([here, wrapped]) - start


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A stretch of a sample, read by itself."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    from_stream: int
    to_stream: int


def _apart(batch: Batch, borders: Sequence[NDArray[np.int64]], chunk: int) -> list[Batch]:
    """Cut rows at borders, and gather those of about equal length into batches no larger than before."""
    num_rows, time = batch.tokens.shape
    area = num_rows * min(time, chunk)
    none = np.full(num_rows, NO_STREAM)
    has_streams = batch.from_streams is not None
    from_streams = none if batch.from_streams is None else batch.from_streams
    to_streams = none if batch.to_streams is None else batch.to_streams
    rows: list[_Row] = []
    for row, cuts in enumerate(borders):
        tokens, targets = batch.tokens[row], batch.targets[row]
        targets[cuts - 1] = NOT_LEARNT
        edges = [0, *cuts[cuts < time].tolist(), time]
        rows += [
            _Row(
                tokens=tokens[a:b],
                targets=targets[a:b],
                from_stream=int(from_streams[row]) if a == 0 else NO_STREAM,
                to_stream=int(to_streams[row]) if b == time else NO_STREAM,
            )
            for a, b in pairwise(edges)
        ]
    rows.sort(key=lambda row: -row.tokens.size)
    batches = []
    while rows:
        count = max(1, area // max(SHORTEST_ROW, min(rows[0].tokens.size, chunk)))
        batches.append(_padded(rows[:count], has_streams))
        rows = rows[count:]
    return batches


def _padded(rows: Sequence[_Row], has_streams: bool) -> Batch:
    """Put rows, the longest first, above one another, and fill up what is shorter."""
    lengths = np.array([row.tokens.size for row in rows], np.int64)
    tokens = np.zeros((len(rows), int(lengths[0])), np.int64)
    targets = np.full_like(tokens, NOT_LEARNT)
    is_real = np.arange(tokens.shape[1]) < lengths[:, None]
    tokens[is_real] = np.concatenate([row.tokens for row in rows])
    targets[is_real] = np.concatenate([row.targets for row in rows])
    return Batch(
        tokens=tokens,
        targets=targets,
        lengths=lengths,
        from_streams=np.array([row.from_stream for row in rows]) if has_streams else None,
        to_streams=np.array([row.to_stream for row in rows]) if has_streams else None,
    )
