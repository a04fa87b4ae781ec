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


def test_what_is_taken_is_what_was_expected() -> None:
    taken = CONTENTS.take({"emb.weight": (11, 8)}, "RWKV4", "the config")
    assert taken["emb.weight"].shape == (11, 8)
    assert CONTENTS.take({}, "RWKV4", "the config", unused=["emb.weight"]) == {}
    for expected, says in (
        ({"emb.weight": (11, 9)}, r"'rwkv\.emb\.weight' is \(11, 8\), but the config needs \(11, 9\)"),
        ({}, r"'rwkv\.emb\.weight' is no tensor of RWKV4"),
        (
            {"emb.weight": (11, 8), "head.weight": (2,), "b": (2,)},
            r"'rwkv\.head\.weight' is missing \(and 1 more",
        ),
    ):
        with pytest.raises(CheckpointError, match=says):
            CONTENTS.take(expected, "RWKV4", "the config")
