"""Training windows: a pure function of (seed, position) that reads every token once an epoch."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.data import NOT_LEARNT, Batch, TokenStore, TokenStoreWriter, Windows
from receptance.errors import ConfigError, DataError


def store_of(folder: Path, tokens: int) -> TokenStore:
    """Return a store whose tokens are their own positions, plus 5."""
    with TokenStoreWriter(folder / "store", 65536) as writer:
        writer.append(np.arange(tokens) + 5)
    return TokenStore(folder / "store")


def batch(windows: Windows, index: int, batch_size: int) -> Batch:
    """Return a batch of windows that are not cut."""
    (whole,) = windows.batch(index, batch_size)
    return whole


def test_every_order_of_four_windows_comes_up_about_equally_often(tmp_path: Path) -> None:
    windows = Windows(store_of(tmp_path, 40), context=10)
    starts = windows.order.starts(np.arange(4 * 2400)).reshape(2400, 4)
    ranks = Counter(tuple(((row - row.min()) // 10).tolist()) for row in starts)
    assert sum(count > 50 for count in ranks.values()) >= 24  # 100 expected


@pytest.mark.parametrize(("tokens", "context"), [(9, 8), (100, 7), (512, 64), (300, 1), (301, 150)])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_token_is_a_target_once_an_epoch_but_for_a_rest_that_moves(
    tmp_path: Path, tokens: int, context: int, seed: int
) -> None:
    windows = Windows(store_of(tmp_path, tokens), context=context, seed=seed)
    count = len(windows)
    left_out = []
    for epoch in range(8):
        seen = Counter((batch(windows, epoch, count).targets - 5).ravel().tolist())
        assert set(seen.values()) == {1}
        assert tokens - len(seen) < context
        left_out.append(frozenset(set(range(tokens)) - set(seen)))
    if tokens % context:
        assert len(set(left_out)) > 1


def test_targets_are_the_tokens_one_step_later(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1000)
    (found,) = Windows(store, context=16).batch(3, 5)
    tokens, targets = found.tokens, found.targets
    assert found.lengths is None
    assert found.num_learnt == 80
    assert tokens.shape == targets.shape == (5, 16)
    assert tokens.dtype == targets.dtype == np.int64
    assert (tokens[:, 1:] == targets[:, :-1]).all()
    assert (targets - 5 == (tokens - 5 + 1) % 1000).all()
    assert tokens.flags.c_contiguous
    assert targets.flags.c_contiguous
    assert tokens.flags.writeable


def test_a_batch_depends_on_seed_and_position_alone(tmp_path: Path) -> None:
    store = store_of(tmp_path, 5000)
    windows = Windows(store, context=32, seed=3)
    later = [batch(windows, i, 4) for i in range(200)]
    fresh = pickle.loads(pickle.dumps(Windows(store, context=32, seed=3)))
    for i in (199, 0, 77, 38, 39):
        np.testing.assert_array_equal(batch(fresh, i, 4).tokens, later[i].tokens)
        np.testing.assert_array_equal(batch(fresh, i, 4).targets, later[i].targets)
    assert not np.array_equal(batch(Windows(store, context=32, seed=4), 0, 4).tokens, later[0].tokens)


def test_the_order_never_changes_between_versions(tmp_path: Path) -> None:
    windows = Windows(store_of(tmp_path, 1000), context=16, seed=42)
    assert windows.order.starts(np.array([0, 1, 61, 62, 10**9])).tolist() == [924, 100, 180, 270, 692]


def test_the_batch_size_only_cuts_one_sequence_of_samples(tmp_path: Path) -> None:
    windows = Windows(store_of(tmp_path, 1000), context=16, seed=1)
    whole = batch(windows, 0, 96).tokens
    parts = [batch(windows, i, 8).tokens for i in range(12)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_epochs_differ_in_order_and_in_borders(tmp_path: Path) -> None:
    windows = Windows(store_of(tmp_path, 1000), context=16, seed=1)
    epochs = windows.order.starts(np.arange(3 * len(windows))).reshape(3, -1)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    assert len({int(epoch[0] % 16) for epoch in epochs} | {int(epoch[1] % 16) for epoch in epochs}) > 1


@pytest.mark.parametrize(
    ("tokens", "max_tokens"), [(10, None), (100, None), (97, None), (100, 50), (100, 48)]
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_sequential_windows_cover_each_target_once_in_order(
    tmp_path: Path, tokens: int, max_tokens: int | None, batch_size: int
) -> None:
    windows = Windows(store_of(tmp_path, tokens), context=8)
    batches = list(windows.sequential(batch_size, max_tokens))
    inputs = np.concatenate([one.tokens.ravel() for one in batches]) - 5
    targets = np.concatenate([one.targets.ravel() for one in batches]) - 5
    count = min(tokens - 1, max_tokens or tokens)
    assert inputs.tolist() == list(range(count))
    assert targets.tolist() == list(range(1, count + 1))
    assert all(one.tokens.shape[0] <= batch_size for one in batches)


def test_a_store_smaller_than_one_window_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 8 tokens.* needs at least 9.*at most 7"):
        Windows(store_of(tmp_path, 8), context=8)
    assert len(Windows(store_of(tmp_path, 9), context=8)) == 1


def test_arguments_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, 100)
    with pytest.raises(ConfigError, match="context is 0"):
        Windows(store, context=0)
    windows = Windows(store, context=8)
    with pytest.raises(ConfigError, match="4 samples from -4 on"):
        windows.batch(-1, 4)
    with pytest.raises(ConfigError, match="0 samples from 0 on"):
        windows.batch(0, 0)
    with pytest.raises(ConfigError, match="rank is 2, but of 2 processes it must be 0 to 1"):
        windows.batch(0, 4, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="order is 'sorted'"):
        Windows(store, context=8, order="sorted")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_tokens 0"):
        next(windows.sequential(1, 0))


@pytest.mark.parametrize("order", ["shuffled", "prime-stride"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_the_batches_of_all_ranks_are_that_of_one_process(
    tmp_path: Path, world_size: int, order: Literal["shuffled", "prime-stride"]
) -> None:
    windows = Windows(store_of(tmp_path, 5000), context=16, seed=2, order=order)
    for index in (0, 1, 700):
        parts = [windows.batch(index, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
        together = np.concatenate([part.tokens for (part,) in parts])
        np.testing.assert_array_equal(together, batch(windows, index, 4 * world_size).tokens)


def test_the_prime_stride_order_reads_the_windows_that_rwkv_lm_reads(tmp_path: Path) -> None:
    context, tokens = 16, 5000
    windows = Windows(store_of(tmp_path, tokens), context=context, order="prime-stride")
    prime = max(p for p in range(2, tokens // context) if p % 3 == 2 and all(p % d for d in range(2, p)))
    # As RWKV-LM's dataset has it, for its `idx`, one process.
    factor = int(prime * ((5**0.5 - 1) / 2))
    expected = [((factor * ii * ii * ii) % prime) * context for ii in range(1, prime + 1)]
    assert (batch(windows, 0, prime).tokens[:, 0] - 5).tolist() == expected
    assert len(windows) == len(set(expected)) == prime


def documents_of(folder: Path, sizes: Sequence[int], masked: bool) -> tuple[TokenStore, list[int], list[int]]:
    """Return a store of documents whose tokens are their positions, where each begins, and the mask."""
    mask = np.arange(sum(sizes)) % 3 != 0 if masked else np.ones(sum(sizes), bool)
    begins = [sum(sizes[:i]) for i in range(len(sizes))]
    with TokenStoreWriter(folder / "store", 65536) as writer:
        for begin, size in zip(begins, sizes, strict=True):
            span = np.arange(begin, begin + size)
            writer.append(span, mask[span].astype(np.uint8))
    return TokenStore(folder / "store"), begins, mask.tolist()


@pytest.mark.parametrize("size", [1, 4, 9, 10, 11])
def test_the_chunks_of_a_batch_are_the_batch_in_pieces(size: int) -> None:
    tokens = np.arange(30).reshape(3, 10)
    whole = Batch(tokens=tokens, targets=tokens + 1, lengths=np.array([10, 5, 1]))
    chunks = whole.chunks(size)
    assert len(chunks) == -(-10 // size)
    np.testing.assert_array_equal(np.concatenate([chunk.tokens for chunk in chunks], 1), whole.tokens)
    np.testing.assert_array_equal(np.concatenate([chunk.targets for chunk in chunks], 1), whole.targets)
    is_real = [np.arange(chunk.tokens.shape[1]) < chunk.lengths[:, None] for chunk in chunks]  # type: ignore[index]
    np.testing.assert_array_equal(np.concatenate(is_real, 1).sum(1), whole.lengths)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(lambda sizes: sum(sizes) > 40),
    context=st.integers(1, 40),
    index=st.integers(0, 100),
    batch_size=st.integers(1, 4),
    masked=st.booleans(),
    chunk=st.sampled_from([0, 1, 7, 100]),
)
def test_a_window_cut_at_borders_holds_the_same_tokens_each_read_after_those_of_its_document_alone(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    context: int,
    index: int,
    batch_size: int,
    masked: bool,
    chunk: int,
) -> None:
    store, begins, mask = documents_of(tmp_path_factory.mktemp("s"), sizes, masked)
    total = store.tokens
    crossing = Windows(store, context=context, seed=1)
    apart = Windows(store, context=context, seed=1, reset_at_borders=True, chunk=chunk)
    whole = batch(crossing, index, batch_size)
    rows = []
    learnt = set()
    for part in apart.batch(index, batch_size):
        assert part.lengths is not None
        for piece in part.chunks(chunk):
            assert piece.tokens.size <= batch_size * min(context, chunk or context)
        for tokens, targets, length in zip(part.tokens, part.targets, part.lengths, strict=True):
            assert (targets[length:] == NOT_LEARNT).all()
            row = tokens[:length].tolist()
            assert not set(row[1:]) & set(begins)  # only the first token may begin a document
            assert row == list(range(row[0], row[0] + length))
            rows += row
            for token, target in zip(row, targets[:length].tolist(), strict=True):
                following = (token + 1) % total
                wanted = following not in begins and mask[following]
                assert target == (following if wanted else NOT_LEARNT)
                learnt.add(target)
    assert Counter(rows) == Counter(whole.tokens.ravel().tolist())
    assert whole.num_learnt == sum(mask[t] for t in ((whole.tokens + 1) % total).ravel().tolist())


def test_validation_is_cut_at_borders_too(tmp_path: Path) -> None:
    store, begins, _ = documents_of(tmp_path, [7, 0, 30, 3], masked=False)
    windows = Windows(store, context=16, reset_at_borders=True)
    targets = np.concatenate([part.targets.ravel() for part in windows.sequential(2)])
    assert sorted(targets[targets != NOT_LEARNT].tolist()) == sorted(set(range(1, 40)) - set(begins))
