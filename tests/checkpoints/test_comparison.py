"""Two files are compared without having either whole in memory, and the figures are those of the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints import comparison
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError
from tests.checkpoints.files import random_model
from tests.models.examples import EXAMPLES, example


@pytest.mark.parametrize("generation", sorted(EXAMPLES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_read_part_by_part_gives_the_logits_of_the_whole(
    tmp_path: Path, generation: str, dtype: torch.dtype
) -> None:
    checkpoints.save(example(generation, torch.float32).cast_matrices(dtype), tmp_path / "a")
    model = checkpoints.load(tmp_path / "a").model
    tokens = comparison.fixed_tokens(model.config.vocabulary_size)
    with torch.inference_mode():
        whole, _ = model(tokens)
    assert torch.equal(
        comparison.logits(checkpoints.open_model(tmp_path / "a"), tokens, dtype), whole.double()
    )


def test_two_files_of_one_model_are_equal(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a")
    checkpoints.save(random_model(), tmp_path / "b.pth", format="pth")
    found = checkpoints.compare(
        checkpoints.open_model(tmp_path / "a"), checkpoints.open_model(tmp_path / "b.pth")
    )
    assert (found.unequal, found.logits, found.choices) == ({}, 0.0, 1.0)
    assert found.num_weights == len(random_model().state_dict())


def test_a_setting_that_is_not_the_same_is_named() -> None:
    model = from_module(example("7"))
    other = replace(model, config=replace(model.config, group_norm_epsilon=1e-2))
    found = checkpoints.compare(model, other)
    assert found.settings == {"group_norm_epsilon": (64e-5, 1e-2)}
    assert not found.unequal
    assert found.logits > 0


def test_a_changed_weight_is_named_with_its_difference() -> None:
    other = random_model()
    with torch.no_grad():
        other.get_parameter("blocks.1.att.key.weight")[3, 5] += 0.25
    found = checkpoints.compare(from_module(random_model()), from_module(other))
    assert found.unequal == {"blocks.1.att.key.weight": pytest.approx(0.25, rel=1e-5)}
    assert 0 < found.logits <= 2 * found.scale


def test_number_formats_are_compared_by_value() -> None:
    model = random_model()
    rounded = random_model()
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16().float()
    assert (
        checkpoints.compare(from_module(rounded), from_module(rounded.cast_matrices(torch.bfloat16))).unequal
        == {}
    )
    assert len(checkpoints.compare(from_module(model), from_module(rounded)).unequal) > 10


@pytest.mark.parametrize("other", [random_model(hidden_size=32), random_model(num_layers=2), example("7")])
def test_models_of_other_sizes_cannot_be_compared(other: torch.nn.Module) -> None:
    with pytest.raises(CheckpointError, match="it holds RWKV"):
        checkpoints.compare(from_module(random_model()), from_module(other))
