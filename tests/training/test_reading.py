"""What the model of a run makes of a batch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from receptance.data import NOT_LEARNT
from receptance.errors import DivergenceError
from receptance.training import TrainingConfig
from receptance.training.reading import Reader
from tests.models.examples import example
from tests.training.test_chunks import random_batch
from tests.training.test_finite import small_model

CONFIG = TrainingConfig(batch_size=1, max_steps=1)


@pytest.mark.parametrize("chunk", [0, 16])
def test_what_is_measured_is_the_sum_over_all_that_is_to_be_learnt_without_dropout(chunk: int) -> None:
    model, batch = example("7").drop(0.5).train(), random_batch(3, 40)
    found = Reader(model, CONFIG).measure(batch.chunks(chunk))
    assert model.training
    with torch.no_grad():
        logits, _ = model.eval()(torch.from_numpy(batch.tokens))
    targets = torch.from_numpy(batch.targets)
    wanted = F.cross_entropy(logits.mT, targets, reduction="sum", ignore_index=NOT_LEARNT)
    assert found == pytest.approx(float(wanted), rel=1e-9)


def test_what_drops_out_follows_from_the_place_and_the_number_of_the_chunk() -> None:
    reader, batch = Reader(example("4").drop(0.5).train(), CONFIG), random_batch(2, 10)
    first, again, other, next_chunk = (
        float(reader.learn(place, number, batch, None)[1])
        for place, number in (((0, 1), 0), ((0, 1), 0), ((0, 2), 0), ((0, 1), 1))
    )
    assert first == again
    assert len({first, other, next_chunk}) == 3


def test_a_chunk_that_is_read_for_its_state_alone_is_looked_at_too() -> None:
    model, batch = small_model(), random_batch(2, 10)
    batch.tokens[:] %= 16
    with torch.no_grad():
        model.blocks[1].ffn.value.weight[0, 0] = math.nan
    with pytest.raises(DivergenceError, match=r"an output or a state is not finite: the weight 'blocks\.1"):
        Reader(model, CONFIG).learn((0,), 0, batch, None, needs_loss=False)
