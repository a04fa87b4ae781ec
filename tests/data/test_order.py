"""Orders of samples: bijections that need no memory, and the published primes of RWKV-LM."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.data.order import ROUNDS, PrimeStride, Sequential, is_prime, magic_prime, permute
from receptance.errors import DataError

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


@pytest.mark.parametrize(
    ("tokens", "context", "prime"),
    [
        (1_498_226_207, 512, 2926181),  # MiniPile
        (1_498_226_207, 4096, 365759),
        (332_115_325_534, 1024, 324331313),  # the Pile
        (332_115_325_534, 2048, 162165671),
        (332_115_325_534, 4096, 81082817),
        (332_115_325_534, 8192, 40541399),
    ],
)
def test_the_prime_is_the_one_that_rwkv_lm_publishes(tokens: int, context: int, prime: int) -> None:
    assert magic_prime(tokens, context) == prime


def test_primes_are_told_from_other_numbers() -> None:
    sieve = np.ones(100_000, bool)
    sieve[:2] = False
    for number in range(2, 317):
        sieve[number * number :: number] = False
    assert [number for number in range(100_000) if is_prime(number)] == np.flatnonzero(sieve).tolist()
    assert is_prime(2**61 - 1)
    assert not is_prime((2**31 - 1) * (2**19 - 1))
    for fooling_few_witnesses in (3215031751, 3825123056546413051):
        assert not is_prime(fooling_few_witnesses)


@given(tokens=st.integers(30, 5000), context=st.integers(1, 10))
def test_an_epoch_in_prime_strides_reads_as_many_different_whole_windows(tokens: int, context: int) -> None:
    order = PrimeStride(tokens, context)
    starts = order.starts(np.arange(len(order)))
    assert len(set(starts.tolist())) == len(order)
    assert (starts % context == 0).all()
    assert starts.max() + context + 1 <= tokens


def test_too_few_windows_for_a_prime_are_refused() -> None:
    with pytest.raises(DataError, match=r"are 2 windows, but .* at least 3"):
        PrimeStride(2 * 512 + 511, 512)
    assert PrimeStride(3 * 512, 512).prime == 2


@given(
    num_streams=st.integers(1, 9),
    context=st.integers(1, 50),
    rest=st.integers(0, 500),
    turns=st.integers(1, 30),
)
def test_each_sequential_sample_begins_where_its_stream_ended(
    num_streams: int, context: int, rest: int, turns: int
) -> None:
    tokens = num_streams * context + rest
    order = Sequential(tokens, context, num_streams)
    samples = np.arange(turns * num_streams)
    starts = order.starts(samples).reshape(turns, num_streams)
    assert np.array_equal(starts[1:], (starts[:-1] + context) % tokens)
    assert np.array_equal(order.streams(samples).reshape(turns, num_streams)[-1], np.arange(num_streams))
    first = np.sort(starts[0])
    assert np.all(np.diff([*first, tokens + first[0]]) >= context)  # none reads what another reads meanwhile


def test_a_text_too_short_for_its_streams_is_refused() -> None:
    with pytest.raises(DataError, match="100 tokens are 14 for each of the 7 samples of a step"):
        Sequential(100, 15, 7)
