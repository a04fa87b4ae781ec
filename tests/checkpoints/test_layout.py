"""Tables of names and layouts can be read in both directions and forget nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from receptance.checkpoints.contents import Weight, weights
from receptance.checkpoints.huggingface.rwkv import SPELLED as RWKV4_LAYOUT
from receptance.checkpoints.layout import STACKED, TRANSPOSED, Layout, Row, reshaped
from receptance.errors import CheckpointError
from tests.checkpoints.files import random_model

FILE = Path("file")

LAYOUT = Layout(
    [
        Row("blocks.{}.w1", "layers.{}.down.weight", TRANSPOSED),
        Row(("blocks.{}.x_r", "blocks.{}.x_k"), "layers.{}.mix", STACKED),
        Row("blocks.{}.r_k", "layers.{}.bonus", reshaped((-1,), (2, -1))),
        Row("emb", "embedding"),
    ]
)


def layer(number: int) -> dict[str, Tensor]:
    return {
        f"blocks.{number}.w1": torch.randn(4, 6),
        f"blocks.{number}.x_k": torch.randn(6),
        f"blocks.{number}.x_r": torch.randn(6),
        f"blocks.{number}.r_k": torch.randn(2, 3),
    }


@given(st.lists(st.integers(0, 10**6), max_size=4, unique=True))
def test_what_goes_through_a_table_and_back_is_the_same(numbers: list[int]) -> None:
    tensors = {"emb": torch.randn(5), "other.7.name": torch.randn(2)}
    for number in numbers:
        tensors |= layer(number)
    back = LAYOUT.to_official(FILE, LAYOUT.to_foreign(weights(tensors)))
    assert back.keys() == tensors.keys()
    for name, weight in back.items():
        assert weight.shape == tuple(tensors[name].shape)
        assert torch.equal(weight.read(), tensors[name])


def test_a_row_says_where_each_of_its_parts_goes() -> None:
    tensors = layer(3)
    foreign = LAYOUT.to_foreign(weights(tensors))
    assert list(foreign) == ["layers.3.down.weight", "layers.3.mix", "layers.3.bonus"]
    assert torch.equal(foreign["layers.3.down.weight"].read(), tensors["blocks.3.w1"].T)
    expected = torch.stack([tensors["blocks.3.x_r"], tensors["blocks.3.x_k"]])
    assert torch.equal(foreign["layers.3.mix"].read(), expected)
    assert LAYOUT.foreign_name("blocks.3.x_k") == "layers.3.mix"


def test_shapes_are_known_before_anything_is_read() -> None:
    def read() -> Tensor:
        raise AssertionError

    unread = Weight((6, 4), torch.bfloat16, read)
    official = LAYOUT.to_official(FILE, {"layers.0.down.weight": unread})["blocks.0.w1"]
    assert (official.shape, official.dtype) == ((4, 6), torch.bfloat16)
    assert LAYOUT.to_foreign({"blocks.0.w1": official})["layers.0.down.weight"].shape == (6, 4)


def test_a_change_may_follow_another() -> None:
    table = Layout([Row(("a", "b"), "c", STACKED.then(reshaped((1, -1), (2, -1))))])
    parts = {"a": torch.arange(3), "b": torch.arange(3, 6)}
    foreign = table.to_foreign(weights(parts))
    assert torch.equal(foreign["c"].read(), torch.arange(6).unsqueeze(0))
    back = table.to_official(FILE, foreign)
    assert all(torch.equal(back[name].read(), part) for name, part in parts.items())


@pytest.mark.parametrize(("name", "shape"), [("mix", (3, 6)), ("mix", ()), ("bonus", (5,))])
def test_a_shape_that_cannot_be_taken_apart_is_refused_by_name(name: str, shape: Sequence[int]) -> None:
    with pytest.raises(CheckpointError, match=rf"file: 'layers\.0\.{name}' cannot be "):
        LAYOUT.to_official(FILE, weights({f"layers.0.{name}": torch.zeros(shape)}))


@given(st.text())
def test_a_name_that_no_table_knows_stays_as_it_is(name: str) -> None:
    unknown = weights({f"{name}?": torch.zeros(1)})
    assert LAYOUT.to_official(FILE, unknown).keys() == unknown.keys()
    assert LAYOUT.to_foreign(unknown).keys() == unknown.keys()


def test_a_row_may_be_of_one_layer_alone() -> None:
    layout = Layout([Row("blocks.0.ln0.bias", "norm.bias"), Row("blocks.{}.ln1.bias", "layers.{}.norm.bias")])
    names = {"blocks.0.ln0.bias": "norm.bias", "blocks.0.ln1.bias": "layers.0.norm.bias"}
    assert [layout.foreign_name(name) for name in names] == list(names.values())
    foreign = weights({name: torch.zeros(1) for name in names.values()})
    assert list(layout.to_official(FILE, foreign)) == list(names)


def test_every_weight_of_rwkv4_has_a_name_in_transformers_and_comes_back() -> None:
    names = list(random_model(num_layers=12).state_dict())
    foreign = [RWKV4_LAYOUT.foreign_name(name) for name in names]
    assert len(set(foreign)) == len(names)
    assert list(RWKV4_LAYOUT.to_official(FILE, weights({name: torch.zeros(1) for name in foreign}))) == names
    assert all(name.startswith("rwkv.") for name in foreign if name != "head.weight")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("emb.weight", "rwkv.embeddings.weight"),
        ("blocks.0.ln0.bias", "rwkv.blocks.0.pre_ln.bias"),
        ("blocks.11.att.time_mix_r", "rwkv.blocks.11.attention.time_mix_receptance"),
        ("blocks.123.ffn.key.weight", "rwkv.blocks.123.feed_forward.key.weight"),
        ("head.weight", "head.weight"),
    ],
)
def test_names_are_those_of_transformers(ours: str, theirs: str) -> None:
    assert RWKV4_LAYOUT.foreign_name(ours) == theirs
