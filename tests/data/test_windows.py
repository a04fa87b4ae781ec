"""Training windows: a pure function of (seed, position) that reads every token once an epoch."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.data import TokenStore, TokenStoreWriter, Windows
from receptance.data.windows import ROUNDS, permute
from receptance.errors import ConfigError, DataError


def store_of(folder: Path, tokens: int) -> TokenStore:
    """Return a store whose tokens are their own positions, plus 5."""
    with TokenStoreWriter(folder / "store", 65536) as writer:
        writer.append(np.arange(tokens) + 5)
    return TokenStore(folder / "store")


keys = st.lists(st.integers(0, 2**64 - 1), min_size=ROUNDS, max_size=ROUNDS)


@settings(deadline=None)
@given(size=st.integers(1, 3000), keys=keys)
def test_the_order_is_a_bijection_for_every_size(size: int, keys: list[int]) -> None:
    assert sorted(permute(np.arange(size), size, keys).tolist()) == list(range(size))


@given(size=st.integers(1, 2**40), keys=keys, data=st.data())
def test_a_place_in_a_huge_order_is_within_it_and_unlike_its_neighbours(
    size: int, keys: list[int], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, max(0, size - 8)))
    index = np.arange(first, min(first + 8, size))
    places = permute(index, size, keys)
    assert len(set(places.tolist())) == len(index)
    assert 0 <= places.min() <= places.max() < size


def test_every_order_of_four_windows_comes_up_about_equally_often(tmp_path: Path) -> None:
    windows = Windows(store_of(tmp_path, 40), context=10)
    starts = windows.starts(np.arange(4 * 2400)).reshape(2400, 4)
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
        seen = Counter((windows.batch(epoch, count)[1] - 5).ravel().tolist())
        assert set(seen.values()) == {1}
        assert tokens - len(seen) < context
        left_out.append(frozenset(set(range(tokens)) - set(seen)))
    if tokens % context:
        assert len(set(left_out)) > 1


def test_targets_are_the_tokens_one_step_later(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1000)
    tokens, targets = Windows(store, context=16).batch(3, 5)
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
    later = [windows.batch(i, 4) for i in range(200)]
    fresh = pickle.loads(pickle.dumps(Windows(store, context=32, seed=3)))
    for i in (199, 0, 77, 38, 39):
        for one, other in zip(fresh.batch(i, 4), later[i], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(Windows(store, context=32, seed=4).batch(0, 4)[0], later[0][0])


def test_the_order_never_changes_between_versions(tmp_path: Path) -> None:
    windows = Windows(store_of(tmp_path, 1000), context=16, seed=42)
    assert windows.starts(np.array([0, 1, 61, 62, 10**9])).tolist() == [924, 100, 180, 270, 692]


def test_the_batch_size_only_cuts_one_sequence_of_samples(tmp_path: Path) -> None:
    windows = Windows(store_of(tmp_path, 1000), context=16, seed=1)
    whole = windows.batch(0, 96)[0]
    parts = [windows.batch(i, 8)[0] for i in range(12)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_epochs_differ_in_order_and_in_borders(tmp_path: Path) -> None:
    windows = Windows(store_of(tmp_path, 1000), context=16, seed=1)
    epochs = windows.starts(np.arange(3 * len(windows))).reshape(3, -1)
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
    inputs = np.concatenate([batch[0].ravel() for batch in batches]) - 5
    targets = np.concatenate([batch[1].ravel() for batch in batches]) - 5
    count = min(tokens - 1, max_tokens or tokens)
    assert inputs.tolist() == list(range(count))
    assert targets.tolist() == list(range(1, count + 1))
    assert all(batch[0].shape[0] <= batch_size for batch in batches)


def test_a_store_smaller_than_one_window_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds 8 tokens.* needs at least 9.*at most 7"):
        Windows(store_of(tmp_path, 8), context=8)
    assert len(Windows(store_of(tmp_path, 9), context=8)) == 1


def test_arguments_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, 100)
    with pytest.raises(ConfigError, match="context is 0"):
        Windows(store, context=0)
    windows = Windows(store, context=8)
    with pytest.raises(ConfigError, match="batch -1"):
        windows.batch(-1, 4)
    with pytest.raises(ConfigError, match="size 0"):
        windows.batch(0, 0)
    with pytest.raises(ConfigError, match="max_tokens 0"):
        next(windows.sequential(1, 0))
