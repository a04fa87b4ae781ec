"""A fingerprint is of the model, whatever file it comes from, and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints.fingerprint import NUMBERS, fingerprint
from tests.inference.models import random_model
from tests.models.examples import EXAMPLES, example


@pytest.mark.parametrize("generation", EXAMPLES)
def test_it_is_the_same_from_every_file_and_another_for_every_weight(generation: str, tmp_path: Path) -> None:
    model = example(generation, torch.float32)
    mine = fingerprint(model)
    for format_name, name in (("receptance", "a.safetensors"), ("pth", "a.pth")):
        checkpoints.save(model, tmp_path / name, format=format_name)
        assert fingerprint(checkpoints.load(tmp_path / name).model) == mine
    for weight in model.parameters():
        with torch.no_grad():
            weight.view(-1)[-1] += 1
        assert fingerprint(model) != mine
        with torch.no_grad():
            weight.view(-1)[-1] -= 1


def test_the_number_format_and_the_config_count() -> None:
    mine = fingerprint(random_model())
    assert fingerprint(random_model()) == mine
    assert fingerprint(random_model().cast_matrices(torch.bfloat16)) != mine
    assert fingerprint(random_model(seed=1)) != mine


def test_it_does_not_depend_on_how_the_numbers_lie_in_memory() -> None:
    model, other = random_model(), random_model()
    for weight in other.parameters():
        weight.data = weight.data.t().contiguous().t() if weight.ndim == 2 else weight.data
    assert fingerprint(other) == fingerprint(model)


def test_the_middle_of_a_large_weight_is_not_read() -> None:
    """This is what makes it cheap, and why it is no protection against forgery."""
    model = random_model()
    mine = fingerprint(model)
    assert model.emb.weight.shape[0] > 2
    assert model.emb.weight.shape[1] < NUMBERS
    with torch.no_grad():
        model.emb.weight[1:-1] += 1
    assert fingerprint(model) == mine
