from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from receptance.inference.quality import WORST_DIVERGENCE, Agreement, agreement, agreement_by_layer
from tests.models.examples import EXAMPLES, example


@pytest.fixture(autouse=True)
def _short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receptance.inference.quality.GREEDY_TOKENS", 20)


TOKENS = torch.randint(29, (3, 40), generator=torch.Generator().manual_seed(0))


def test_a_model_agrees_with_itself() -> None:
    model = example("4", torch.float32)
    found = agreement(model, model, TOKENS)
    with torch.no_grad():
        logits = model(TOKENS)[0]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).double(), TOKENS[:, 1:].flatten())
    assert found.perplexity == pytest.approx((math.exp(loss), math.exp(loss)), rel=1e-5)
    assert (found.tokens, found.divergence, found.same_choice, found.greedy_tokens) == (120, 0, 1, 20)
    assert not found.is_ruined


def test_the_divergence_of_two_models_is_that_of_their_distributions() -> None:
    one, other = example("5.2", torch.float32), example("5.2", torch.float32, seed=1)
    with torch.no_grad():
        state = one(TOKENS[:1])[1]
        p, q = (
            model(TOKENS, state.map(lambda part: part.repeat(1, 3, *[1] * (part.ndim - 2))))[0]
            for model in (one, other)
        )
    found = agreement(one, other, TOKENS, state)
    p, q = p.double().softmax(-1), q.double().softmax(-1)
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum() / 120), rel=1e-4)
    assert found.same_choice == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert found.greedy_tokens < 20
    assert found.is_ruined


def test_what_is_not_a_number_is_ruined() -> None:
    def of(divergence: float) -> Agreement:
        return Agreement(tokens=1, perplexity=(1, 1), divergence=divergence, same_choice=1, greedy_tokens=20)

    assert of(math.nan).is_ruined
    assert of(WORST_DIVERGENCE * 1.01).is_ruined
    assert not of(WORST_DIVERGENCE).is_ruined


@pytest.mark.parametrize("generation", EXAMPLES)
def test_layers_are_taken_over_one_by_one(generation: str) -> None:
    one, other = example(generation, torch.float32), example(generation, torch.float32)
    with torch.no_grad():
        for parameter in other.layers[1].ffn.parameters():
            parameter += 0.1
        other.head.weight *= 1.1
    blocks = list(one.layers)
    first, second, third, head = agreement_by_layer(one, other, TOKENS)
    assert list(one.layers) == blocks
    assert [layer.name for layer in (first, second, third, head)] == ["0", "1", "2", "head"]
    assert first.divergence == pytest.approx(0, abs=1e-6)
    assert second.divergence > 1e-5
    assert third.divergence == pytest.approx(second.divergence, rel=1e-3)
    assert head.divergence == pytest.approx(agreement(one, other, TOKENS).divergence, rel=1e-4)
    assert set(first.errors) == {name for name in first.errors if name.startswith(("att.", "ffn."))}
    assert max(first.errors.values()) == 0
    assert second.errors["ffn.value"] > 0
    assert second.errors["att.key"] == 0
    assert head.errors["head"] > 0.05
