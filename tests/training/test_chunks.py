"""Reading in chunks gives the gradient of one long pass, or exactly the part of it that was asked for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from receptance import kernels
from receptance.data import NOT_LEARNT, Batch
from receptance.errors import DivergenceError
from receptance.models import RWKV4, AnyModel, State
from receptance.training import GuardConfig, train
from receptance.training.chunks import ChunkGradient, backward
from receptance.training.randomness import seeded
from tests.models.examples import EXAMPLES, example
from tests.training.conftest import MakeConfig
from tests.training.test_trainer import elsewhere, losses, masked_chats, weights

MAX_LOGIT, Z_LOSS = 0.03, 0.02
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}


def random_batch(rows: int, time: int, *, with_lengths: bool = False, seed: int = 0) -> Batch:
    """Return a batch of which a third is masked, and one row and the time from 20 to 35 in all rows."""
    numbers = np.random.default_rng(seed)
    tokens, targets = numbers.integers(0, 29, (2, rows, time))
    targets[numbers.random((rows, time)) < 0.3] = NOT_LEARNT
    targets[-1] = targets[:, 20:35] = NOT_LEARNT
    lengths = None
    if with_lengths:
        lengths = np.linspace(time, 3, rows).astype(np.int64)
        targets[np.arange(time) >= lengths[:, None]] = NOT_LEARNT
    return Batch(tokens=tokens, targets=targets, lengths=lengths)


class Reader:
    """Reads chunks with a model as the trainer does, and counts the states that it handed out."""

    def __init__(self, model: AnyModel) -> None:
        self.model = model
        self.most_states = 0
        self._states: list[weakref.ref[Tensor]] = []

    def __call__(
        self, number: int, chunk: Batch, state: State | None, *, needs_loss: bool = True
    ) -> tuple[Tensor, Tensor, State]:
        lengths = None if chunk.lengths is None else torch.from_numpy(chunk.lengths)
        with seeded(torch.device("cpu"), number):
            hidden, end = self.model.features(torch.from_numpy(chunk.tokens), state, lengths)
        self._states.append(weakref.ref(next(iter(end.tensors().values()))))
        self.most_states = max(self.most_states, sum(state() is not None for state in self._states))
        if not needs_loss:
            return torch.tensor(torch.nan), torch.tensor(torch.nan), end
        targets = torch.from_numpy(chunk.targets)
        loss, nats = kernels.linear_cross_entropy(hidden, self.model.head.weight, targets, MAX_LOGIT, Z_LOSS)
        return loss, nats, end


def gradients(model: AnyModel, backpropagate: Callable[[], None]) -> dict[str, Tensor]:
    """Return what is added to the gradients of a model."""
    model.zero_grad()
    backpropagate()
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }


def in_chunks(
    read: Reader, batches: Sequence[Batch], size: int, gradient: ChunkGradient = "full"
) -> tuple[dict[str, Tensor], float]:
    """Return the gradients of a step and its loss."""
    learnt = sum(batch.num_learnt for batch in batches)
    parts: list[Tensor] = []

    def backpropagate() -> None:
        for batch in batches:
            parts.extend(backward(read, batch.chunks(size), learnt, gradient))

    return gradients(read.model, backpropagate), float(torch.stack(parts).sum())


def plain_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return (loss to differentiate, nats), both as sums, in torch's own functions."""
    counted = logits[targets != NOT_LEARNT]
    nats = F.cross_entropy(counted, targets[targets != NOT_LEARNT], reduction="sum")
    largest, normaliser = counted.amax(-1), counted.logsumexp(-1)
    return nats + (0.5 * MAX_LOGIT * largest**2 + Z_LOSS * normaliser**2).sum(), nats.detach()


def in_one_pass(model: AnyModel, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], float]:
    learnt, nats = sum(batch.num_learnt for batch in batches), 0.0

    def backpropagate() -> None:
        nonlocal nats
        for batch in batches:
            lengths = None if batch.lengths is None else torch.from_numpy(batch.lengths)
            logits, _ = model(torch.from_numpy(batch.tokens), lengths=lengths)
            loss, own = plain_loss(logits, torch.from_numpy(batch.targets))
            (loss / learnt).backward()  # type: ignore[no-untyped-call]
            nats += float(own) / learnt

    return gradients(model, backpropagate), nats


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """Hold the whole gradient to a share of its length, and in float64 each parameter's largest value too.

    In float32 one long pass of such an RWKV-7 is itself 4e-5 away from float64 in some parameter.
    """
    differences = [(found[name].double() - wanted[name].double()).flatten() for name in wanted]
    length = float(torch.cat([gradient.double().flatten() for gradient in wanted.values()]).norm())
    assert float(torch.cat(differences).norm()) <= tolerance * length
    for name, gradient in wanted.items():
        if gradient.dtype != torch.float64:
            break
        assert_close(found[name], gradient, rtol=0, atol=tolerance * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("generation", EXAMPLES)
def test_the_full_gradient_is_that_of_one_long_pass(
    generation: str, dtype: torch.dtype, with_lengths: bool
) -> None:
    model = example(generation, dtype)
    batches = [random_batch(3, 70, with_lengths=with_lengths), random_batch(2, 45, seed=1)]
    wanted, nats = in_one_pass(model, batches)
    for size in (1, 16, 33, 69, 70, 0):
        if size == 1 and dtype == torch.float32:
            continue  # the same at twice the time
        found, loss = in_chunks(Reader(model), batches, size)
        assert_same(found, wanted, TOLERANCES[dtype])
        assert loss == pytest.approx(nats, rel=TOLERANCES[dtype])


@pytest.mark.parametrize("generation", ["4", "6", "7"])
def test_it_stays_that_over_thousands_of_tokens(generation: str) -> None:
    model, batch = example(generation, torch.float32), random_batch(1, 3000)
    batch = replace(batch, targets=np.where(np.arange(3000) % 9, NOT_LEARNT, batch.tokens))
    found, loss = in_chunks(Reader(model), [batch], 256)
    wanted, nats = in_one_pass(model, [batch])
    assert_same(found, wanted, 1e-5)
    assert loss == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("generation", EXAMPLES)
def test_the_truncated_gradient_takes_what_came_before_a_chunk_as_given(generation: str) -> None:
    model, batch = example(generation), random_batch(3, 70, with_lengths=True)
    assert batch.lengths is not None
    tokens, lengths = torch.from_numpy(batch.tokens), torch.from_numpy(batch.lengths)

    def backpropagate() -> None:
        for begin in (0, 32, 64):
            end = min(begin + 32, 70)
            state = None
            if begin:
                with torch.no_grad():
                    _, state = model(tokens[:, :begin], lengths=lengths.clamp(max=begin))
            logits, _ = model(tokens[:, begin:end], state, (lengths - begin).clamp(0, end - begin))
            loss, _ = plain_loss(logits, torch.from_numpy(batch.targets[:, begin:end]))
            (loss / batch.num_learnt).backward()  # type: ignore[no-untyped-call]

    wanted = gradients(model, backpropagate)
    found, loss = in_chunks(Reader(model), [batch], 32, "truncated")
    assert_same(found, wanted, 1e-12)
    full, nats = in_one_pass(model, [batch])
    assert loss == pytest.approx(nats, rel=1e-12)  # only the way back ends at a chunk's beginning
    with pytest.raises(AssertionError):
        assert_same(found, full, 1e-3)


def test_a_chunk_that_is_read_again_drops_out_the_same() -> None:
    model, batch = example("7").drop(0.4).train(), random_batch(2, 48)
    read = Reader(model)

    def backpropagate() -> None:
        state, total = None, torch.zeros(())
        for number, chunk in enumerate(batch.chunks(16)):  # with the graph of all of them in memory
            loss, _, state = read(number, chunk, state)
            total = total + loss * chunk.num_learnt
        (total / batch.num_learnt).backward()  # type: ignore[no-untyped-call]

    wanted = gradients(model, backpropagate)
    found, _ = in_chunks(read, [batch], 16)
    assert_same(found, wanted, 1e-12)


class Saved:
    """Counts the bytes that autograd keeps for the way back, and the most at any moment."""

    def __init__(self) -> None:
        self.bytes = self.most = 0

    def keep(self, tensor: Tensor) -> list[Tensor]:
        kept = Kept([tensor.detach()])
        self.bytes += tensor.nbytes
        self.most = max(self.most, self.bytes)
        weakref.finalize(kept, self.free, tensor.nbytes)
        return kept

    def free(self, size: int) -> None:
        self.bytes -= size


class Kept(list[Tensor]):
    """What a weak reference can be made of."""


@pytest.mark.parametrize("generation", ["4", "5.2", "6", "7"])
def test_memory_grows_with_the_context_by_nothing_where_truncated_and_by_the_states_where_full(
    generation: str,
) -> None:
    model = example(generation, torch.float32)
    most: dict[object, list[int]] = {"full": [], "truncated": [], "whole": []}
    states: dict[object, list[int]] = {"full": [], "truncated": [], "whole": []}
    for context in (128, 512):
        for name in most:
            saved, read = Saved(), Reader(model)
            with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda kept: kept[0]):
                size, gradient = (0, "full") if name == "whole" else (32, name)
                in_chunks(read, [random_batch(2, context)], size, gradient)  # type: ignore[arg-type]
            assert saved.bytes == 0
            most[name].append(saved.most)
            states[name].append(read.most_states)
    assert most["whole"][1] > 3.5 * most["whole"][0]
    assert most["truncated"][1] == most["truncated"][0] < most["whole"][0] / 3
    assert most["full"][1] == most["full"][0] < most["whole"][0] / 3
    assert states == {"whole": [1, 1], "truncated": [1, 1], "full": [4, 16]}


@pytest.mark.parametrize("generation", ["4", "7"])
@pytest.mark.parametrize("reset_at_borders", [False, True])
def test_a_run_in_chunks_takes_the_steps_of_one_that_reads_each_context_whole(
    make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory, generation: str, reset_at_borders: bool
) -> None:
    sizes = {"head_size": 8} if generation == "7" else {}
    config = make_config(
        generation=generation, context=96, accumulation=2, batch_size=2, max_logit_weight=1e-2, **sizes
    )
    text = masked_chats(tmp_path_factory.mktemp("chats"))
    config = replace(config, data=replace(config.data, folder=text, reset_at_borders=reset_at_borders))
    parts = elsewhere(config, "parts")
    parts = replace(parts, training=replace(parts.training, chunk=36))
    for each in (config, parts):
        train(each)
    assert losses(parts.run.folder) == pytest.approx(losses(config.run.folder), rel=1e-5)
    assert_close(weights(parts.run.folder), weights(config.run.folder), rtol=0, atol=2e-4)


def test_the_text_held_back_is_read_in_chunks_too_and_measures_the_same(make_config: MakeConfig) -> None:
    config = make_config(context=96, max_steps=1)
    parts = elsewhere(config, "parts")
    parts = replace(parts, training=replace(parts.training, chunk=20))
    for each in (config, parts):
        train(each)
    wanted = losses(config.run.folder, "validation")
    assert losses(parts.run.folder, "validation") == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("gradient", ["full", "truncated"])
def test_a_run_in_chunks_goes_on_to_the_bit(make_config: MakeConfig, gradient: ChunkGradient) -> None:
    config = make_config(chunk=7, chunk_gradient=gradient, dropout=0.2, dtype="bfloat16")
    stopped = elsewhere(config, "stopped")
    train(config)
    train(stopped, stop=lambda: True)
    train(stopped, resume=True)
    assert losses(stopped.run.folder) == losses(config.run.folder)
    assert all(torch.equal(a, weights(config.run.folder)[n]) for n, a in weights(stopped.run.folder).items())


@pytest.mark.parametrize("gradient", ["full", "truncated"])
def test_a_state_that_goes_bad_between_chunks_is_found_there(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, gradient: ChunkGradient
) -> None:
    features = RWKV4.features
    calls = []

    def spoilt(self: RWKV4, *arguments: object) -> tuple[Tensor, State]:
        hidden, state = features(self, *arguments)  # type: ignore[arg-type]
        calls.append(len(calls))
        return hidden, state.map(lambda tensor: tensor * torch.nan) if len(calls) == 2 else state

    monkeypatch.setattr(RWKV4, "features", spoilt)
    config = make_config(chunk=7, chunk_gradient=gradient)
    config = replace(config, guard=GuardConfig(policy="stop"))
    with pytest.raises(DivergenceError, match="step 1: an output or a state is not finite"):
        train(config)
    assert len(calls) == 3  # the third looks for the cause
