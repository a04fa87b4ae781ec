from __future__ import annotations

import gc

import torch

from receptance.runtimes.recycled import RecycledMemory

LARGE = (4, 256, 512)


def test_memory_comes_back_when_its_tensor_is_gone() -> None:
    memory = RecycledMemory()
    address = memory.take(*LARGE).data_ptr()
    assert memory.take(*LARGE).data_ptr() == address


def test_memory_that_somebody_looks_into_is_never_handed_out() -> None:
    memory = RecycledMemory()
    state = memory.take(*LARGE).fill_(1)
    view = state[2, :10].T
    del state
    gc.collect()
    memory.take(*LARGE).fill_(2)
    assert bool((view == 1).all())


def test_a_tensor_has_the_shape_that_was_asked_for_small_or_large() -> None:
    memory = RecycledMemory()
    for shape in (LARGE, (3,), (1 << 18,), (2, 0, 5)):
        tensor = memory.take(*shape)
        assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, torch.float32, True)


def test_few_blocks_are_kept_however_many_were_held() -> None:
    memory = RecycledMemory()
    held = [memory.take(*LARGE) for _ in range(10)]
    del held
    assert [len(free) for free in memory._free.values()] == [2]


def test_what_is_lent_outlives_the_lender() -> None:
    state = RecycledMemory().take(*LARGE).fill_(3)
    gc.collect()
    assert bool((state == 3).all())
