"""The guard: no step spoils the weights, whatever goes bad in it, and a run does what its policy says."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from receptance.errors import DivergenceError
from receptance.training import Config, GuardConfig, Progress, resume_config, train
from receptance.training.guard import WINDOW, Guard, Memory
from receptance.training.metrics import Record, read_metrics
from receptance.training.run_folder import RunFolder
from receptance.training.snapshot import load_snapshot
from receptance.training.trainer import Trainer
from tests.training.conftest import MakeConfig

SIZES: dict[str, dict[str, object]] = {
    "4": {},
    "5": {"head_size": 8},
    "6": {"head_size": 8, "mix_rank": 3, "decay_rank": 5},
    "7": {"head_size": 8, "decay_rank": 3, "in_context_rank": 4, "value_rank": 5, "gate_rank": 6},
}
NOT_FINITE = (math.nan, math.inf, -math.inf)

Injection = Callable[[Trainer, random.Random], Any]  # what it returns is a context manager


def spoilt(tensor: Tensor, random_numbers: random.Random) -> Tensor:
    """Return a copy in which one number is not finite."""
    tensor = tensor.clone()
    tensor.view(-1)[random_numbers.randrange(tensor.numel())] = random_numbers.choice(NOT_FINITE)
    return tensor


@contextmanager
def bad_weight(trainer: Trainer, random_numbers: random.Random) -> Iterator[None]:
    """Spoil a weight that every step uses."""
    weight = random_numbers.choice(
        [weight for name, weight in trainer.model.named_parameters() if "emb" not in name]
    )
    before = weight.detach().clone()
    weight.data.copy_(spoilt(before, random_numbers))
    yield
    weight.data.copy_(before)


@contextmanager
def bad_gradient(trainer: Trainer, random_numbers: random.Random) -> Iterator[None]:
    weight = random_numbers.choice(list(trainer.model.parameters()))
    handle = weight.register_hook(lambda gradient: spoilt(gradient, random_numbers))
    yield
    handle.remove()


@contextmanager
def bad_output(trainer: Trainer, random_numbers: random.Random) -> Iterator[None]:
    """Spoil the output of some module on the way to the loss; of the last norm, it spoils logits."""
    model = trainer.model
    modules = [
        model.emb,
        model.ln_out,
        *(block.att for block in model.blocks),
        *(b.ffn for b in model.blocks),
    ]

    def spoil(module: object, inputs: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return spoilt(output[0], random_numbers), *output[1:]
        return spoilt(output, random_numbers)

    handle = random_numbers.choice(modules).register_forward_hook(spoil)
    yield
    handle.remove()


@contextmanager
def bad_state(trainer: Trainer, random_numbers: random.Random) -> Iterator[None]:
    """Spoil the state after the batch, which has no part in the loss."""
    model = trainer.model
    features = model.features

    def with_bad_state(*arguments: Any, **keywords: Any) -> Any:
        hidden, state = features(*arguments, **keywords)
        name = random_numbers.choice(list(state.tensors()))
        return hidden, replace(state, **{name: spoilt(getattr(state, name), random_numbers)})

    model.features = with_bad_state
    yield
    model.features = features


@contextmanager
def bad_loss(trainer: Trainer, random_numbers: random.Random) -> Iterator[None]:
    whole = trainer.reader.loss

    def bad(*arguments: Any) -> tuple[Tensor, ...]:
        loss, *rest = whole(*arguments)
        return loss * random_numbers.choice(NOT_FINITE), *rest

    trainer.reader.loss = bad
    yield
    trainer.reader.loss = whole


INJECTIONS = (bad_weight, bad_gradient, bad_output, bad_state, bad_loss)


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, Injection]], None]:
    """A function that spoils the steps of these numbers, counted from 1, in all runs of the test."""

    def spoil(plan: dict[int, Injection]) -> None:
        gradients = Trainer._gradients

        def injected(self: Trainer, step: int) -> float:
            if step + 1 not in plan:
                return gradients(self, step)
            with_injection = plan[step + 1](self, random.Random(step))
            with_injection.__enter__()
            try:
                return gradients(self, step)
            finally:
                with_injection.__exit__(None, None, None)

        monkeypatch.setattr(Trainer, "_gradients", injected)

    return spoil


def guarded(config: Config, **keys: object) -> Config:
    return replace(config, guard=GuardConfig(**keys))  # type: ignore[arg-type]


def records(config: Config, kind: str) -> list[Record]:
    return [one for one in read_metrics(config.run.folder / "metrics.jsonl") if one["kind"] == kind]


def last_tensors(config: Config) -> dict[str, Tensor]:
    found = RunFolder(config.run.folder).snapshots.newest()
    assert found is not None
    return dict(found.tensors)


@pytest.mark.parametrize(
    ("generation", "dtype"), [("4", "float32"), ("5", "bfloat16"), ("6", "float32"), ("7", "bfloat16")]
)
def test_t5_whatever_goes_bad_is_caught_in_its_step(
    make_config: MakeConfig,
    inject: Callable[[dict[int, Injection]], None],
    generation: str,
    dtype: str,
    record_property: Callable[[str, object], None],
) -> None:
    chunks = {"6": {"chunk": 10}, "7": {"chunk": 10, "chunk_gradient": "truncated"}}.get(generation, {})
    random_numbers = random.Random(generation)
    steps = sorted(random_numbers.sample(range(1, 41), 25))
    inject({step: INJECTIONS[place % len(INJECTIONS)] for place, step in enumerate(steps)})
    config = make_config(
        generation=generation, max_steps=40, save_every=1, dtype=dtype, **SIZES[generation], **chunks
    )
    config = guarded(config, policy="skip", skips=100)
    train(config)
    caught = [record["step"] for record in records(config, "skip")]
    assert caught == steps
    assert [one["step"] for one in records(config, "training")] == sorted({*range(1, 41)} - {*steps})
    assert all(tensor.isfinite().all() for tensor in last_tensors(config).values())
    counts = {float(tensor) for name, tensor in last_tensors(config).items() if name.startswith("step.")}
    assert counts == {15.0}  # steps of the optimizer
    record_property(
        "figure", f"T5 RWKV-{generation} {dtype}: {len(caught)} of 25 bad steps caught in their step"
    )


def test_a_skipped_step_leaves_the_weights_and_takes_its_batch_with_it(
    make_config: MakeConfig, inject: Callable[[dict[int, Injection]], None]
) -> None:
    inject({3: bad_gradient, 4: bad_state})
    config = guarded(make_config(max_steps=4, save_every=1, keep_last=9), policy="skip")
    seen: list[Progress] = []
    train(config, report=seen.append)
    assert [progress.step for progress in seen] == [1, 2]
    snapshots = RunFolder(config.run.folder).snapshots
    second, fourth = (load_snapshot(snapshots.path(step)) for step in (2, 4))
    assert all(torch.equal(second.tensors[name], fourth.tensors[name]) for name in second.tensors)
    assert (fourth.position.step, fourth.guard.skipped) == (4, 2)


def test_the_default_stops_before_the_weights_change_and_names_the_tensor(
    make_config: MakeConfig, inject: Callable[[dict[int, Injection]], None]
) -> None:
    inject({3: bad_weight})
    config = make_config(save_every=2)
    with pytest.raises(
        DivergenceError, match=r"step 3: the loss is .*: the weight '.*' is not finite.*--resume"
    ):
        train(config)
    assert RunFolder(config.run.folder).snapshots.steps() == [2]


def test_no_more_steps_in_a_row_are_skipped_than_allowed(
    make_config: MakeConfig, inject: Callable[[dict[int, Injection]], None]
) -> None:
    inject(dict.fromkeys((2, 3, 5, 6, 7), bad_loss))
    config = guarded(make_config(max_steps=9), policy="skip", skips=2)
    with pytest.raises(DivergenceError, match="step 7: "):
        train(config)
    assert [record["step"] for record in records(config, "skip")] == [2, 3, 5, 6]


def test_a_rollback_takes_the_weights_of_the_snapshot_and_goes_on_with_the_next_step(
    make_config: MakeConfig,
    inject: Callable[[dict[int, Injection]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    inject(dict.fromkeys((6, 7), bad_gradient))
    config = guarded(make_config(max_steps=9, save_every=4, keep_last=9), policy="rollback", skips=1)
    with caplog.at_level(logging.WARNING):
        train(config)
    assert "step 7: rolled back to step 4: the gradient of" in caplog.text
    assert [(record["step"], record["to_step"]) for record in records(config, "rollback")] == [(7, 4)]
    counts = {float(tensor) for name, tensor in last_tensors(config).items() if name.startswith("step.")}
    assert counts == {6.0}  # four before the snapshot, then steps 8 and 9


def test_the_same_snapshot_is_gone_back_to_once(
    make_config: MakeConfig, inject: Callable[[dict[int, Injection]], None]
) -> None:
    inject(dict.fromkeys((5, 7), bad_gradient))
    config = guarded(make_config(max_steps=9, save_every=4), policy="rollback", skips=0)
    with pytest.raises(DivergenceError, match=r"step 7: .*snapshot of step 4 is whole"):
        train(config)


def test_a_run_without_a_snapshot_cannot_go_back(
    make_config: MakeConfig, inject: Callable[[dict[int, Injection]], None]
) -> None:
    inject({2: bad_gradient})
    with pytest.raises(DivergenceError, match="No snapshot was written yet"):
        train(guarded(make_config(), policy="rollback", skips=0))


def test_a_run_that_was_killed_among_skips_and_rollbacks_ends_like_one_that_was_not(
    make_config: MakeConfig, inject: Callable[[dict[int, Injection]], None]
) -> None:
    class KilledError(Exception):
        pass

    def kill(progress: Progress) -> None:
        if next(steps) % 5 == 0:
            raise KilledError

    inject(dict.fromkeys((3, 6, 7, 11), bad_gradient))
    whole = make_config(
        max_steps=14, save_every=2, save_share=0.0
    )  # the clock would decide what to go back to
    whole = guarded(whole, policy="rollback", skips=1)
    train(whole)
    assert records(whole, "rollback")
    broken = replace(whole, run=replace(whole.run, folder=whole.run.folder.with_name("broken")))
    steps, sessions = itertools.count(1), 1
    with pytest.raises(KilledError):
        train(broken, report=kill)
    while True:
        sessions += 1
        with suppress(KilledError):
            train(resume_config(broken.run.folder), resume=True, report=kill)
            break
    assert sessions >= 3
    for kind in ("training", "skip", "rollback", "validation"):
        one, other = (
            [{name: record.get(name) for name in ("step", "loss", "reason", "to_step")} for record in log]
            for log in (records(whole, kind), records(broken, kind))
        )
        assert one == other
    ends = last_tensors(whole), last_tensors(broken)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_spike_is_measured_by_the_deviation_of_the_latest_losses() -> None:
    memory = Memory()
    losses = [2.0 + 0.1 * (-1) ** step for step in range(WINDOW)]
    for loss in losses:
        memory = memory.after(loss)
    assert memory.mean == pytest.approx(2.0)
    assert math.sqrt(memory.variance) == pytest.approx(0.1)
    guard = Guard(GuardConfig(spike=5.0), memory)
    guard.check(2.49)
    with pytest.raises(DivergenceError, match=r"the loss is 2\.51.* a spike.* limit to 2\.5"):
        guard.check(2.51)
    Guard(GuardConfig(), memory).check(1e9)


def test_the_first_losses_of_a_run_are_no_spikes() -> None:
    memory = Memory()
    for step in range(WINDOW - 1):
        Guard(GuardConfig(spike=1.0), memory).check(100.0 * step)
        memory = memory.after(1.0)


def test_a_spike_is_treated_by_the_policy(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receptance.training.guard.WINDOW", 4)
    gradients = Trainer._gradients
    monkeypatch.setattr(
        Trainer, "_gradients", lambda self, step: gradients(self, step) + (50.0 if step == 7 else 0.0)
    )
    config = guarded(make_config(max_steps=10, learning_rate=1e-4), policy="skip", spike=30.0)
    train(config)
    (skipped,) = records(config, "skip")
    assert skipped["step"] == 8
    assert "a spike" in skipped["reason"]
