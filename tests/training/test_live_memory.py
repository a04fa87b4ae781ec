from __future__ import annotations

import torch

from receptance.training.live_memory import LiveMemory


def test_views_and_what_is_changed_in_place_count_once_and_what_is_freed_no_longer() -> None:
    live = LiveMemory()
    with live:
        with live.purpose("first"):
            one = torch.zeros(1000)
            one[2:].add_(1)
        with live.purpose("second"):
            two = torch.zeros(10, dtype=torch.float64)
        del one
        with live.purpose("first"):
            three = torch.empty(500)
    assert live.peak == {"first": 4000, "second": 80}
    del two, three


def test_what_is_never_made_has_its_size_too() -> None:
    live = LiveMemory()
    with live, live.purpose("large"):
        torch.empty(2**50, dtype=torch.bfloat16, device="meta")
    assert live.peak == {"large": 2**51}
