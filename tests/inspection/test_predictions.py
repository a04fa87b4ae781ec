from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from receptance.inspection.predictions import log_softmax, predictions
from tests.models.examples import EXAMPLES, example

TEXT = torch.tensor([3, 17, 17, 0, 28, 5])


@pytest.mark.parametrize("generation", EXAMPLES)
@torch.no_grad()
def test_surprisals_are_the_cross_entropy_of_the_text(generation: str) -> None:
    model = example(generation)
    found = predictions(model, TEXT)
    logits, _ = model(TEXT[None, :-1])
    expected = F.cross_entropy(logits[0], TEXT[1:], reduction="none")
    torch.testing.assert_close(found.surprisals[1:], expected)
    assert math.isnan(found.surprisals[0])
    for rank, row, came in zip(found.ranks[1:], logits[0], TEXT[1:], strict=True):
        assert row.argsort(descending=True)[rank - 1] == came


@torch.no_grad()
def test_what_came_before_predicts_the_first_token() -> None:
    model = example("5.2")
    logits, state = model(TEXT[None, :2])
    found = predictions(model, TEXT[2:], state, logits[0, -1])
    expected = predictions(model, TEXT).log_probabilities[2:]
    torch.testing.assert_close(found.log_probabilities, expected)
    ids, values = found.likeliest(3)
    assert ids.shape == values.shape == (5, 3)
    torch.testing.assert_close(values[0, 0], logits[0, -1].log_softmax(-1).max())


def test_logits_of_16_bits_become_probabilities_of_32() -> None:
    assert log_softmax(torch.zeros(4, dtype=torch.bfloat16)).dtype == torch.float32
    assert log_softmax(torch.zeros(4, dtype=torch.float64)).dtype == torch.float64
