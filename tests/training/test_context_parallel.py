"""Processes that share each sample, and hand the state on, learn from it what one process does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from receptance.data import Batch
from receptance.errors import ConfigError
from receptance.models import AnyModel
from receptance.training import Config, DistributedConfig, GuardConfig, TrainingConfig, train
from receptance.training.chunks import ChunkGradient, backward
from receptance.training.context_parallel import Layer, Neighbour, Passage
from receptance.training.reading import Reader
from tests.models.examples import EXAMPLES, example
from tests.training.conftest import MakeConfig
from tests.training.test_chunks import MAX_LOGIT, assert_same, gradients, random_batch
from tests.training.test_distributed import (
    CALM,
    Ranks,
    assert_close_records,
    assert_equal_but_for_rounding,
    elsewhere,
    log,
    longer,
    newest,
    ranks,
)
from tests.training.test_trainer import masked_chats

CONFIG = TrainingConfig(batch_size=1, max_steps=1, max_logit_weight=MAX_LOGIT)


@pytest.fixture(scope="module")
def four() -> Iterator[Ranks]:
    with ranks(4) as processes:
        yield processes


def sharing(config: Config, processes: int) -> Config:
    return replace(config, distributed=DistributedConfig(context=processes))


def in_one_pass(model: AnyModel, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], float]:
    """Return the gradient of batches that are read whole by one process, and the loss."""
    reader = Reader(model, CONFIG)
    learnt, nats = sum(batch.num_learnt for batch in batches), 0.0

    def backpropagate() -> None:
        nonlocal nats
        for batch in batches:
            weight = batch.num_learnt / learnt
            loss, own, _ = reader.learn((), 0, batch, None)
            (loss * weight).backward()  # type: ignore[no-untyped-call]
            nats += float(own) * weight

    return gradients(model, backpropagate), nats


def in_chunks(
    model: AnyModel, batches: Sequence[Batch], size: int, gradient: ChunkGradient
) -> tuple[dict[str, Tensor], float]:
    """Return the gradient of batches that one process reads in chunks, and the loss."""
    reader, learnt = Reader(model, CONFIG), sum(batch.num_learnt for batch in batches)
    parts: list[Tensor] = []

    def backpropagate() -> None:
        for number, batch in enumerate(batches):
            parts.extend(backward(partial(reader.learn, (number,)), batch.chunks(size), learnt, gradient))

    return gradients(model, backpropagate), float(sum(parts))


def together(
    processes: Ranks, tmp_path: Path, *, share: int, batch: dict[str, Any], **how: Any
) -> tuple[dict[str, Tensor], float]:
    """Return the gradient that processes take of batches which `share` of them read each, and the loss."""
    file = tmp_path / "gradient.safetensors"
    order = {"chunk": 0, "gradient": "full", "dropout": 0.0} | how
    answers = processes.order(share=share, batch=batch, file=str(file), **order)
    assert all(answer == answers[0] for answer in answers)
    return load_file(file), answers[0]["loss"]


@pytest.mark.parametrize("share", [2, 4])
@pytest.mark.parametrize("generation", ["4", "5.2", "6", "7"])
def test_the_gradient_is_that_of_one_process_that_reads_each_sample_whole(
    four: Ranks, tmp_path: Path, generation: str, share: int
) -> None:
    for chunk, with_lengths in ((0, True), (7, False), (16, True)):
        batch = {"rows": 3, "time": 70, "with_lengths": with_lengths}
        batches = [random_batch(**batch, seed=team) for team in range(4 // share)]
        wanted, nats = in_one_pass(example(generation), batches)
        found, loss = together(four, tmp_path, generation=generation, share=share, batch=batch, chunk=chunk)
        assert_same(found, wanted, 1e-12)
        assert loss == pytest.approx(nats, rel=1e-12)


@pytest.mark.parametrize(("share", "time"), [(2, 70), (4, 70), (4, 20)])  # the last: two chunks for four
def test_the_truncated_gradient_and_what_drops_out_are_those_of_the_same_chunks_in_one_process(
    four: Ranks, tmp_path: Path, share: int, time: int
) -> None:
    for generation, gradient in (("4", "truncated"), ("7", "truncated"), ("7", "full")):
        if gradient == "full" and time == 20:
            continue  # there the chunks are shorter, so that each process has one
        batch = {"rows": 2, "time": time}
        how: dict[str, Any] = {"generation": generation, "chunk": 12, "gradient": gradient, "dropout": 0.3}
        found, loss = together(four, tmp_path, share=share, batch=batch, **how)
        batches = [random_batch(**batch, seed=team) for team in range(4 // share)]
        wanted, nats = in_chunks(example(generation).drop(0.3).train(), batches, 12, gradient)
        assert_same(found, wanted, 1e-12)
        assert loss == pytest.approx(nats, rel=1e-12)


@pytest.mark.parametrize("generation", ["4", "5", "6", "7"])
def test_a_run_that_shares_its_samples_takes_the_steps_of_one_process_and_goes_on_in_any_number(
    four: Ranks, make_config: MakeConfig, generation: str
) -> None:
    sizes = {} if generation == "4" else {"head_size": 8}
    config = make_config(generation=generation, plateau=1.0, batch_size=2, validate_every=3, **sizes, **CALM)
    shared = elsewhere(config, "shared")
    train(config)
    four.train(longer(sharing(shared, 2), 2))
    train(longer(shared, 3), resume=True)
    answers = four.train(longer(sharing(shared, 4), 5), resume=True)
    assert all(answer == answers[0] for answer in answers)  # the optimizers too, to the bit
    train(shared, resume=True)
    steps, wanted = ([r for r in log(one) if r["kind"] == "training"] for one in (shared, config))
    for one, other in zip(steps, wanted, strict=True):
        assert_close_records(one, other)
    for name, tensor in newest(config).tensors.items():
        assert_close(newest(shared).tensors[name], tensor, rtol=0, atol=1e-5)


def test_documents_apart_masks_and_batches_are_those_of_one_process(
    four: Ranks, make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = make_config(
        generation="7", head_size=8, context=96, accumulation=2, batch_size=3, max_steps=3, chunk=20, **CALM
    )
    text = masked_chats(tmp_path_factory.mktemp("chats"))
    config = replace(config, data=replace(config.data, folder=text, reset_at_borders=True))
    shared = elsewhere(config, "shared")
    train(config)
    four.train(sharing(shared, 2))
    assert_equal_but_for_rounding(config, shared)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_bad_chunk_of_one_process_is_found_by_all(four: Ranks, make_config: MakeConfig, rank: int) -> None:
    config = sharing(make_config(), 4)
    answers = four.train(config, spoil=[rank, 2])
    assert all(answer == answers[0] for answer in answers)
    assert "step 2: the loss is nan" in answers[0]["error"]
    skipping = replace(elsewhere(config, "skipping"), guard=GuardConfig(policy="skip"))
    answers = four.train(skipping, spoil=[rank, 2])
    assert all(answer == answers[0] for answer in answers)
    assert [record["kind"] for record in log(skipping)][:3] == ["training", "skip", "training"]


def test_processes_that_cannot_be_parted_into_such_groups_are_refused(
    four: Ranks, make_config: MakeConfig
) -> None:
    config = sharing(make_config(), 3)
    answers = four.train(config)
    assert all(answer == answers[0] for answer in answers)
    assert "distributed.context is 3, but the number of processes is 4" in answers[0]["error"]
    with pytest.raises(ConfigError, match=r"distributed\.context is 3, but the number of processes is 1"):
        train(config)
    assert not config.run.folder.exists()
    with pytest.raises(ValidationError, match=r"training\.compile makes one"):
        sharing(make_config(compile=True), 2)


class Noted(Neighbour):
    """A neighbour that hands out empty states and zero gradients, and notes what was asked of it."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def send(self, tensors: Sequence[Tensor]) -> None:
        self.notes.append(f"to {self.name}")

    def receive(self, like: Sequence[Tensor]) -> Layer:
        self.notes.append(f"from {self.name}")
        return tuple(torch.zeros_like(tensor) for tensor in like)


@pytest.mark.parametrize("generation", EXAMPLES)
def test_no_layer_waits_for_more_than_the_same_layer_of_the_chunk_beside_it(generation: str) -> None:
    model, notes = example(generation), list[str]()
    passage = Passage(number=1, before=Noted("before", notes), after=Noted("after", notes), has_gradient=True)
    with passage.through(model):
        loss, _, _ = Reader(model, CONFIG).learn((), 1, random_batch(2, 9), None)
    loss.backward()  # type: ignore[no-untyped-call]
    assert notes == ["from before", "to after"] * 3 + ["from after", "to before"] * 3
    notes.clear()
    model(torch.zeros(1, 3, dtype=torch.int64))
    assert not notes  # a model that is read otherwise is as it was
