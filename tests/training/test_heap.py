from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from receptance.training.heap import Heap


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5000)), max_size=60))
def test_blocks_never_overlap_and_nothing_is_left_when_all_are_freed(
    requests: list[tuple[bool, int]],
) -> None:
    heap, blocks = Heap(), dict[int, int]()
    for is_new, number in requests:
        if is_new or not blocks:
            address = heap.allocate(number)
            assert all(address >= place + size or address + number <= place for place, size in blocks.items())
            assert address + number <= heap.most
            blocks[address] = number
        else:
            address = sorted(blocks)[number % len(blocks)]
            del blocks[address]
            heap.free(address)
    most = heap.most
    for address in blocks:
        heap.free(address)
    assert heap.allocate(0) == 0
    assert heap.most == max(most, 16)


def test_a_block_goes_into_the_smallest_gap_that_is_large_enough() -> None:
    heap = Heap()
    large, _, small, _ = (heap.allocate(size) for size in (4096, 64, 2048, 64))
    for gap in (large, small):
        heap.free(gap)
    assert heap.allocate(1024) == small
    assert heap.allocate(2048) == large


def test_a_gap_is_too_small_for_a_block_like_the_one_that_left_it() -> None:
    heap = Heap()
    first = heap.allocate(4096)
    heap.allocate(64)
    end = heap.most
    heap.free(first)
    assert heap.allocate(4096) == end
