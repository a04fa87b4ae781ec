from __future__ import annotations

import torch

from receptance.training.randomness import seeded

CPU = torch.device("cpu")


def drawn(*position: int) -> list[float]:
    with seeded(CPU, *position):
        found: list[float] = torch.rand(4).tolist()
    return found


def test_what_is_drawn_depends_on_the_position_alone() -> None:
    first = drawn(1, 2, 3)
    torch.rand(7)
    assert drawn(1, 2, 3) == first
    others = [drawn(*position) for position in ((0, 2, 3), (1, 3, 2), (1, 2, 4), (12, 3), (1, 23))]
    assert all(other != first for other in others)
    assert len({tuple(other) for other in others}) == len(others)


def test_what_others_draw_goes_on_as_if_nothing_had_been_drawn_in_between() -> None:
    torch.manual_seed(5)
    expected = torch.rand(6)
    torch.manual_seed(5)
    begin = torch.rand(3)
    drawn(9)
    assert torch.equal(torch.cat([begin, torch.rand(3)]), expected)
