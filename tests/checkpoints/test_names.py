"""What surrounds and pads the official names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from receptance.checkpoints.names import (
    WRAPPER_PREFIXES,
    is_wide,
    tuned_state_shapes,
    without_padding,
    wrapper_prefix,
)
from receptance.models import RWKV7Config
from tests.checkpoints.files import official, random_model


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
    assert without_padding((1, 1, 5), (5,)) == (5,)
    assert without_padding((5, 1), (5,)) == (5, 1)
    assert without_padding((1, 1, 5), (7,)) == (1, 1, 5)
    assert without_padding((1, 1, 1), (1,)) == (1,)


def test_a_tuned_state_has_a_matrix_for_each_head_of_each_layer() -> None:
    config = RWKV7Config(vocabulary_size=5, num_layers=2, hidden_size=24, head_size=8)
    assert tuned_state_shapes(config) == {
        "blocks.0.att.time_state": (3, 8, 8),
        "blocks.1.att.time_state": (3, 8, 8),
    }
    assert tuned_state_shapes(random_model().config) == {}


def test_wide_matrices_are_those_that_multiply_at_full_width() -> None:
    for name, tensor in official(random_model()).items():
        assert (is_wide(name) and tensor.ndim == 2) == (tensor.ndim == 2 and name != "emb.weight"), name
    assert not is_wide("blocks.0.att.w1")
