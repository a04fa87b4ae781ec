from __future__ import annotations

import torch

from receptance.quantization.arena import Arena


def test_what_is_taken_is_aligned_zero_and_not_shared() -> None:
    arena = Arena()
    sizes = (1, 64, 100, 0, 5_000_000, 63)
    taken = [arena.take(size) for size in sizes]
    for number, (tensor, size) in enumerate(zip(taken, sizes, strict=True), start=1):
        assert tensor.shape == (size,)
        assert tensor.data_ptr() % 64 == 0 or not size
        assert not tensor.any()
        tensor.fill_(number)
    assert all((tensor == number).all() for number, tensor in enumerate(taken, start=1))


def test_more_than_a_chunk_can_be_taken_at_once() -> None:
    arena = Arena()
    arena.take(1000)
    assert len(arena.take(100_000_000)) == 100_000_000


def test_tensors_outlive_their_arena() -> None:
    tensor = Arena().take(1 << 22)
    tensor.fill_(7)
    assert torch.equal(tensor, torch.full_like(tensor, 7))
