"""Tables of names can be read in both directions and forget nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from receptance.checkpoints.names import (
    TRANSFORMERS_RWKV4,
    WRAPPER_PREFIXES,
    published_shape,
    without_padding,
    wrapper_prefix,
)
from tests.checkpoints.files import official, random_model


def test_every_weight_has_a_name_in_transformers_and_comes_back() -> None:
    names = list(random_model(num_layers=12).state_dict())
    foreign = [TRANSFORMERS_RWKV4.foreign(name) for name in names]
    assert len(set(foreign)) == len(names)
    assert [TRANSFORMERS_RWKV4.official(name) for name in foreign] == names
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
    assert TRANSFORMERS_RWKV4.foreign(ours) == theirs


@given(st.text())
def test_a_name_that_no_table_knows_stays_as_it_is(name: str) -> None:
    assert TRANSFORMERS_RWKV4.official(f"{name}?") == f"{name}?"


@given(st.lists(st.sampled_from(WRAPPER_PREFIXES), max_size=3))
def test_what_trainers_put_before_every_name_is_found(prefixes: list[str]) -> None:
    prefix = "".join(prefixes)
    assert wrapper_prefix([prefix + name for name in ("emb.weight", "head.weight")]) == prefix


def test_a_prefix_of_some_names_belongs_to_them() -> None:
    assert wrapper_prefix(["model.layers.0", "lm_head.weight"]) == ""
    assert wrapper_prefix([]) == ""


def test_mixes_are_padded_in_published_files_and_nothing_else_is() -> None:
    for name, tensor in official(random_model()).items():
        assert (tensor.shape[:2] == (1, 1) and tensor.ndim == 3) == ("time_mix" in name)


def test_padding_comes_off_only_where_it_gives_the_shape() -> None:
    vector = torch.arange(5.0)
    assert without_padding(published_shape("blocks.0.att.time_mix_k", vector), (5,)).shape == (5,)
    assert without_padding(vector.reshape(5, 1), (5,)).shape == (5, 1)
    assert without_padding(vector.reshape(1, 1, 5), (7,)).shape == (1, 1, 5)
    assert without_padding(torch.zeros(1, 1, 1), (1,)).shape == (1,)
