from __future__ import annotations

import pytest
import torch

from receptance.errors import ConfigError
from receptance.inspection import inspect
from tests.models.examples import EXAMPLES, example

TEXT = torch.tensor([3, 17, 17, 0, 28, 5, 9, 11, 3, 2])


@pytest.mark.parametrize("generation", EXAMPLES)
def test_of_a_long_text_the_end_is_seen_as_in_the_whole(generation: str) -> None:
    model = example(generation)
    whole, end = inspect(model, TEXT), inspect(model, TEXT, limit=4)
    assert (whole.num_before, end.num_before) == (0, 6)
    assert end.tokens.tolist() == TEXT[-4:].tolist()
    for name in ("divergence", "gain"):
        expected = getattr(whole.influence, name)[-5:, -4:]
        torch.testing.assert_close(getattr(end.influence, name), expected, equal_nan=True)
    torch.testing.assert_close(end.memory.norms, whole.memory.norms[-4:])
    torch.testing.assert_close(end.memory.changes, whole.memory.changes[-4:])
    torch.testing.assert_close(end.predictions.surprisals, whole.predictions.surprisals[-4:])
    rates = whole.decays.rates
    torch.testing.assert_close(end.decays.rates, rates[-4:] if whole.decays.depends_on_text else rates)


@pytest.mark.parametrize(
    ("tokens", "limit", "complaint"),
    [
        (TEXT, 1, "1 tokens cannot be inspected, but 2 to 1,024 can"),
        (TEXT, 1025, "1,025 tokens cannot be inspected"),
        (TEXT[:1], 256, "at least 2 tokens, but there are 1"),
        (TEXT[:0], 256, "at least 2 tokens, but there are 0"),
        (TEXT + 20, 256, "is unknown to the model"),
    ],
)
def test_what_cannot_be_inspected_is_refused(tokens: torch.Tensor, limit: int, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        inspect(example("4"), tokens, limit=limit)
