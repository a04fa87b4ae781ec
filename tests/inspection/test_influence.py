from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receptance.inspection import influence as module
from receptance.inspection.influence import influence
from receptance.inspection.predictions import predictions
from receptance.models import AnyModel, State
from tests.models.examples import EXAMPLES, example

TEXT = torch.tensor([3, 17, 17, 0, 28, 5, 9, 11, 3])
EARLIER = torch.tensor([4, 8, 15])


def by_hand(model: AnyModel, tokens: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
    """Influence as its definition has it: a whole run of its own, from the beginning, for every pair."""
    count = len(tokens)
    divergence, gain = torch.full((2, count + 1, count), torch.nan, dtype=torch.float64)

    def predicted(read: Tensor) -> Tensor:
        return model(torch.cat([earlier, read])[None])[0][0, -1].softmax(-1)

    for i in range(count):
        for j in range(i + 1, count + 1):
            if j == 1 and len(earlier) == 0:
                continue
            p = predicted(tokens[:j])
            q = predicted(torch.cat([tokens[:i], tokens[i + 1 : j]]))
            divergence[j, i] = sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
            if j < count:
                gain[j, i] = (p[tokens[j]] / q[tokens[j]]).log()
    return divergence, gain


def found(model: AnyModel, tokens: Tensor, state: State | None, first: Tensor | None) -> module.Influence:
    whole = predictions(model, tokens, state, first)
    return influence(model, tokens, whole.log_probabilities, state)


@pytest.mark.parametrize("generation", EXAMPLES)
@torch.inference_mode()
def test_leaving_a_token_out_is_what_a_run_without_it_says(generation: str) -> None:
    model = example(generation)
    actual = found(model, TEXT, None, None)
    divergence, gain = by_hand(model, TEXT, TEXT[:0])
    torch.testing.assert_close(actual.divergence, divergence, rtol=1e-9, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(actual.gain, gain, rtol=1e-9, atol=1e-12, equal_nan=True)
    assert float(divergence[-1, 0]) > 1e-8, "the first token still counts at the end, or nothing was tested"


@pytest.mark.parametrize("generation", EXAMPLES)
@torch.inference_mode()
def test_what_was_read_before_is_remembered_in_every_run(generation: str) -> None:
    model = example(generation)
    logits, state = model(EARLIER[None])
    actual = found(model, TEXT, state, logits[0, -1])
    divergence, gain = by_hand(model, TEXT, EARLIER)
    torch.testing.assert_close(actual.divergence, divergence, rtol=1e-9, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(actual.gain, gain, rtol=1e-9, atol=1e-12, equal_nan=True)
    assert not torch.isnan(actual.divergence[1, 0])


@pytest.mark.parametrize("generation", ["4", "7"])
def test_how_the_runs_are_batched_changes_nothing(generation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = example(generation)
    expected = found(model, TEXT, None, None)
    monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(module, "LOGITS", 4 * 3 * model.config.vocabulary_size)  # 3 tokens a span
    told: list[tuple[int, int]] = []
    whole = predictions(model, TEXT).log_probabilities
    actual = influence(model, TEXT, whole, advance=lambda done, total: told.append((done, total)))
    torch.testing.assert_close(actual.divergence, expected.divergence, equal_nan=True)
    torch.testing.assert_close(actual.gain, expected.gain, equal_nan=True)
    # Rows that leave out 0 to 3, then 4 to 7, and the last, with which nothing is left to read.
    assert told == [(12, 36), (23, 36), (26, 36), (35, 36), (36, 36)]


def test_a_token_that_the_memory_does_not_see_has_no_influence() -> None:
    """With no way from one token to the next, only the last one counts."""
    model = example("4")
    with torch.no_grad():
        for block in model.layers:
            block.att.output.weight.zero_()
            block.ffn.time_mix_k.fill_(1.0)
            block.ffn.time_mix_r.fill_(1.0)
    divergence = found(model, TEXT, None, None).divergence
    far = divergence.tril(-2)
    assert float(far[far == far].max()) < 1e-14
    assert float(divergence[5, 4]) > 1e-3
