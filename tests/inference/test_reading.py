"""Reading gives the logits of what follows, in spans of any length."""

from __future__ import annotations

import pytest
import torch

from receptance.errors import ConfigError
from receptance.inference.reading import read, require_known
from tests.inference.models import random_model


@pytest.mark.parametrize("span", [1, 7, 20, 100])
def test_the_span_of_the_prefill_changes_nothing(span: int) -> None:
    model, tokens = random_model(), torch.arange(1, 41).reshape(2, 20)
    whole, _ = model(tokens)
    logits, state = read(model, tokens, span=span)
    torch.testing.assert_close(logits, whole[:, -1].detach(), rtol=1e-5, atol=1e-5)
    again, _ = read(model, tokens[:, :1], state)
    expected, _ = model(torch.cat([tokens, tokens[:, :1]], dim=1))
    torch.testing.assert_close(again, expected[:, -1].detach(), rtol=1e-5, atol=1e-5)


def test_nothing_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="no tokens to read"):
        read(random_model(), torch.empty(1, 0, dtype=torch.int64))


@pytest.mark.parametrize("stranger", [-1, 7])
def test_a_token_that_the_model_does_not_know_is_named(stranger: int) -> None:
    require_known(torch.tensor([0, 6]), 7)
    require_known(torch.tensor([], dtype=torch.int64), 7)
    with pytest.raises(
        ConfigError, match=f"Token {stranger} is unknown to the model, whose ids go from 0 to 6"
    ):
        require_known(torch.tensor([3, stranger]), 7)
