"""Contexts are read once as far as they are alike, and what comes out is what each alone gives."""

from __future__ import annotations

import pytest
import torch

from receptance.errors import ConfigError
from receptance.evaluation.contexts import read_contexts
from tests.inference.models import random_model

MODEL = random_model(vocabulary_size=11)


def test_shared_beginnings_are_read_once() -> None:
    head, questions = list(range(10)) * 20, [[7] * 30, [8] * 20]
    contexts = [head + question + end for question in questions for end in ([], [1] * 8, [], [2] * 9)]
    read: list[int] = []

    class Counting(type(MODEL)):  # type: ignore[misc]  # a class of which MODEL is made one for a moment
        def features(self, tokens, state=None, lengths=None):  # type: ignore[no-untyped-def]
            read.append(int(lengths.sum()))
            return super().features(tokens, state, lengths)

    model = random_model(vocabulary_size=11)
    model.__class__ = Counting
    found = [index for batch in read_contexts(model, contexts) for index in batch.indices]
    assert sorted(found) == list(range(8))
    assert sum(read) == len(head) + 30 + 20 + 2 * (8 + 9)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_logits_and_states_are_those_of_each_context_alone(batch_size: int) -> None:
    contexts = [[1] * 8, [1] * 9, [1] * 20, [2], [1] * 8 + [3] * 600, [2], [1] * 8]
    seen = set()
    for indices, logits, state in read_contexts(MODEL, contexts, batch_size=batch_size):
        assert indices == sorted(indices)
        assert len(indices) <= batch_size
        for row, index in enumerate(indices):
            seen.add(index)
            with torch.inference_mode():
                alone, end = MODEL(torch.tensor([contexts[index]]))
            torch.testing.assert_close(logits[row], alone[0, -1], atol=1e-4, rtol=0)
            for ours, theirs in zip(state.row(row).tensors().values(), end.tensors().values(), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert seen == set(range(len(contexts)))


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="a context is empty"):
        read_contexts(MODEL, [[1], []])
    with pytest.raises(ConfigError, match="batch_size is 0"):
        read_contexts(MODEL, [[1]], batch_size=0)
