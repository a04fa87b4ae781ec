"""Log likelihoods: those of each text read alone, by another program too, however many are read together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import receptance
from receptance import native
from receptance.errors import ConfigError
from receptance.evaluation.scoring import Request, Scored, score
from receptance.models import AnyModel, State
from receptance.runtimes import NativeModel
from tests.inference.models import random_model

MODEL = random_model(vocabulary_size=11)
tokens = st.lists(st.integers(0, 10), max_size=24)
# Contexts out of few parts, so that many begin alike.
contexts = st.lists(st.sampled_from([(1,), (2, 3), (4,) * 9, (5, 6, 7) * 4]), min_size=1, max_size=4).map(
    lambda parts: [token for part in parts for token in part]
)


def alone(model: AnyModel, request: Request, state: State | None = None) -> Scored:
    """The scores of one request, from one pass over the whole text."""
    text = torch.tensor([[*request.context, *request.continuation]])
    with torch.inference_mode():
        logits = model(text, state)[0][0].double()
    said = logits[len(request.context) - 1 : -1].log_softmax(-1)
    following = torch.tensor(request.continuation, dtype=torch.int64)
    return Scored(said.gather(-1, following[:, None])[:, 0], said.argmax(-1) == following)


def assert_same(found: Scored, expected: Scored, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(
        found.log_probabilities.double(), expected.log_probabilities, atol=tolerance, rtol=0
    )
    assert torch.equal(found.is_likeliest, expected.is_likeliest)


@settings(max_examples=30)
@given(st.lists(st.builds(Request, contexts, tokens), max_size=20), st.integers(1, 5))
def test_many_at_once_are_scored_as_each_alone(requests: list[Request], batch_size: int) -> None:
    found = dict(score(MODEL, requests, batch_size=batch_size))
    assert sorted(found) == list(range(len(requests)))
    for index, request in enumerate(requests):
        assert_same(found[index], alone(MODEL, request))


@pytest.mark.skipif(native.library() is None, reason="needs the native library")
@settings(max_examples=15)
@given(st.lists(st.builds(Request, contexts, tokens), max_size=20), st.integers(1, 5))
def test_so_they_are_in_the_native_runtime(requests: list[Request], batch_size: int) -> None:
    for index, found in score(NativeModel.pack(MODEL), requests, batch_size=batch_size):
        assert_same(found, alone(MODEL, requests[index]))


@pytest.mark.parametrize("length", [511, 512, 513, 1025])
def test_long_contexts_and_continuations_are_read_in_spans(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    text = torch.randint(11, (2 * length,), generator=generator).tolist()
    requests = [Request(text[:length], text[length:]), Request(text[:3], text[3:40])]
    for index, found in score(MODEL, requests):
        assert_same(found, alone(MODEL, requests[index]), 1e-4)


def test_a_text_goes_on_from_the_state_that_it_is_given() -> None:
    with torch.inference_mode():
        _, state = MODEL(torch.tensor([[1, 2, 3]]))
    request = Request([4, 5], [6, 7])
    ((_, found),) = score(MODEL, [request], state=state)
    assert_same(found, alone(MODEL, request, state))
    assert_same(found, alone(MODEL, Request([1, 2, 3, 4, 5], [6, 7])))


def test_scores_are_those_of_another_program_s_logits(shared: Path) -> None:
    reference = np.load(shared / "data" / "tiny-models" / "rwkv-4.0-660K.ref.npz")
    text, logits = reference["tokens"].tolist(), torch.from_numpy(reference["logits"]).double()
    said = logits.log_softmax(-1)
    model = receptance.load(shared / "data" / "tiny-models" / "rwkv-4.0-660K.safetensors").model
    requests = [Request(text[:cut], text[cut:]) for cut in (1, 10, 40)]
    for index, found in score(model, requests):
        cut = len(requests[index].context)
        expected = said[torch.arange(cut - 1, len(text) - 1), torch.tensor(text[cut:])]
        torch.testing.assert_close(found.log_probabilities.double(), expected, atol=1e-4, rtol=0)
        assert (
            found.is_likeliest.tolist()
            == (said[cut - 1 : -1].argmax(-1) == torch.tensor(text[cut:])).tolist()
        )
        assert found.log_likelihood == pytest.approx(float(expected.sum()), abs=1e-4)
        assert not found.is_greedy


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match="a context is empty"):
        score(MODEL, [Request([], [1])])
    with pytest.raises(ConfigError, match="Token 11 is unknown"):
        list(score(MODEL, [Request([1], [11])]))
