"""What a reader found, before anything is built from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance.checkpoints.contents import Contents, weights
from receptance.errors import CheckpointError

CONTENTS = Contents(
    path=Path("model.bin"),
    format="test",
    weights=weights({"emb.weight": torch.zeros(11, 8)}),
    files=(Path("model.bin"),),
    name_in_file=lambda name: f"rwkv.{name}",
)


def test_a_size_is_read_from_a_tensor_of_the_right_rank() -> None:
    assert CONTENTS.shape("emb.weight", 2) == (11, 8)


@pytest.mark.parametrize(
    ("name", "axes", "says"),
    [("emb.weight", 1, r"is \(11, 8\), but it must have 1 axes"), ("head.weight", 2, "is missing")],
)
def test_an_error_shows_the_path_and_the_name_that_the_tensor_has_in_the_file(
    name: str, axes: int, says: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.bin: 'rwkv\.{name}' {says}"):
        CONTENTS.shape(name, axes)
