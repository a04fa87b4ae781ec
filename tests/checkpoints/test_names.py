"""What surrounds and pads the official names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from receptance.checkpoints.names import (
    WRAPPER_PREFIXES,
    without_padding,
    wrapper_prefix,
)
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
