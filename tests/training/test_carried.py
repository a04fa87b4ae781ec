"""Steps that go on where the one before ended read the text as one pass over all of it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from receptance import checkpoints
from receptance.data import TokenStore
from receptance.errors import TrainingError
from receptance.models import RWKV4, RWKV7, RWKV4Config, RWKV7Config
from receptance.training import Config, DistributedConfig, GuardConfig, ModelConfig, StageConfig, World, train
from receptance.training.carried import Carried, carried_of
from tests.models.examples import example
from tests.training.conftest import MakeConfig
from tests.training.test_distributed import CALM, Ranks, newest, ranks
from tests.training.test_trainer import elsewhere, losses, masked_chats, weights

SIZES = {"vocabulary_size": 256, "num_layers": 2, "hidden_size": 16}
MODELS = {
    "4": lambda: RWKV4(RWKV4Config(**SIZES)),
    "7": lambda: RWKV7(RWKV7Config(**SIZES, head_size=8)),
}


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with ranks(2) as pair:
        yield pair


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masked_chats(tmp_path_factory.mktemp("chats"))


def disturbed(generation: str, folder: Path) -> Path:
    """Save a model whose losses depend on what it remembers, unlike those of one that has just begun."""
    model, generator = MODELS[generation](), torch.Generator().manual_seed(0)
    model.initialise(generator)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)
    checkpoints.save(model, folder / "initial.safetensors", tokenizer="bytes")
    return folder / "initial.safetensors"


def sequential(config: Config, **data: object) -> Config:
    return replace(config, data=replace(config.data, order="sequential", **data))


def read_in_one_go(config: Config, steps: int) -> list[float]:
    """Return the loss of each step by reading from the beginning of each stream to its end there."""
    model = checkpoints.load(config.model.initial, dtype=torch.float32).model
    store = TokenStore(config.data.folder / "train")
    streams, context = config.training.batch_size * config.training.accumulation, config.data.context
    sums, counts = np.zeros(steps), np.zeros(steps)
    for stream in range(streams):
        begin = stream * (store.tokens // streams)
        ring = (begin + np.arange(steps * context + 1)) % store.tokens
        documents = [0, steps * context + 1]
        if config.data.reset_at_borders:
            borders = {*store.borders(0, store.tokens).tolist(), 0}
            documents[1:1] = [n for n in range(1, ring.size) if int(ring[n]) in borders]
        for first, last in pairwise(documents):
            tokens = torch.from_numpy(store.flat[ring[first:last]].astype(np.int64))[None]
            with torch.no_grad():
                logits, _ = model(tokens[:, :-1])
            nats = F.cross_entropy(logits[0], tokens[0, 1:], reduction="none").double().numpy()
            learnt = np.ones(nats.size) if store.mask is None else store.mask[ring[first + 1 : last]]
            place = (np.arange(first, last - 1)) // context
            np.add.at(sums, place, nats * learnt)
            np.add.at(counts, place, learnt)
    return list(sums / counts)


@pytest.mark.parametrize("reset_at_borders", [False, True])
@pytest.mark.parametrize("generation", MODELS)
def test_the_losses_are_those_of_one_pass_over_each_stream_even_round_the_end_of_the_text(
    make_config: MakeConfig, chats: Path, tmp_path: Path, generation: str, reset_at_borders: bool
) -> None:
    steps = 30  # of which the last stream reads the last ones at the beginning of the text
    config = make_config(max_steps=steps, accumulation=2, batch_size=2, learning_rate=0.0, chunk=10)
    config = replace(
        sequential(config, folder=chats, context=32, reset_at_borders=reset_at_borders),
        model=ModelConfig(initial=disturbed(generation, tmp_path)),
        optimizer=replace(config.optimizer, final_learning_rate=0.0),
    )
    assert steps * 32 * 4 > TokenStore(chats / "train").tokens
    train(config)
    wanted = read_in_one_go(config, steps)
    assert losses(config.run.folder) == pytest.approx(wanted, rel=2e-6)
    if not reset_at_borders:
        whole = replace(elsewhere(config, "alone"), data=replace(config.data, order="shuffled"))
        train(whole)
        assert abs(np.mean(losses(whole.run.folder)) - np.mean(wanted)) > 1e-4  # the state counts


@pytest.mark.parametrize("gradient", ["full", "truncated"])
def test_a_run_that_is_stopped_goes_on_with_its_states_to_the_bit(
    make_config: MakeConfig, gradient: str
) -> None:
    config = sequential(
        make_config(
            generation="7", head_size=8, chunk=7, chunk_gradient=gradient, dtype="bfloat16", dropout=0.1
        )
    )
    stopped = elsewhere(config, "stopped")
    train(config)
    train(stopped, stop=lambda: True)
    train(stopped, resume=True)
    assert losses(stopped.run.folder) == losses(config.run.folder)
    first, second = newest(config).tensors, newest(stopped).tensors
    assert "carried.wkv" in first
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(a, weights(config.run.folder)[n]) for n, a in weights(stopped.run.folder).items())


@pytest.mark.parametrize("reset_at_borders", [False, True])
def test_two_processes_carry_what_one_does_and_hand_it_to_each_other(
    two: Ranks, make_config: MakeConfig, chats: Path, reset_at_borders: bool
) -> None:
    config = make_config(batch_size=3, max_steps=4, plateau=1.0, **CALM)
    config = sequential(config, folder=chats, reset_at_borders=reset_at_borders)
    together = elsewhere(config, "together")
    train(config)
    two.train(replace(together, training=replace(together.training, max_steps=2)))
    train(replace(together, training=replace(together.training, max_steps=3)), resume=True)
    two.train(together, resume=True)
    wanted = losses(config.run.folder)
    assert losses(together.run.folder) == pytest.approx(wanted, rel=1e-5)
    first, second = newest(config).tensors, newest(together).tensors
    for name in (name for name in first if name.startswith("carried.")):
        torch.testing.assert_close(second[name], first[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_bad_step_leaves_no_trace_in_what_is_carried(
    two: Ranks, make_config: MakeConfig, policy: str
) -> None:
    guard = GuardConfig(policy=policy, skips=int(policy == "skip"))
    config = replace(sequential(make_config(save_every=1)), guard=guard)
    answers = two.train(config, spoil=[1, 3])
    assert (answers[0]["step"], answers[0]) == (6, answers[1])
    assert all(tensor.isfinite().all() for tensor in newest(config).tensors.values())


def test_each_row_begins_with_the_state_of_its_stream_or_an_empty_one() -> None:
    model = example("4")
    carried, end = Carried(model, 3), model.initial_state(2).map(lambda tensor: tensor * 0 + 7)
    carried.keep(np.array([-1, 2]), end)
    carried.accept(World())
    rows = carried.before(np.array([2, -1, 2]))
    empty = model.initial_state(1)
    assert all(bool((tensor[:, [0, 2]] == 7).all()) for tensor in rows.tensors().values())
    for name, tensor in rows.tensors().items():
        assert torch.equal(tensor[:, 1:2], empty.tensors()[name])


def test_states_that_do_not_fit_the_run_are_refused(make_config: MakeConfig) -> None:
    config = sequential(make_config(batch_size=2))
    carried = carried_of(config, example("4"))
    assert carried is not None
    with pytest.raises(
        TrainingError, match=r"'carried.time_shift' is missing, but the run needs \(3, 2, 16\)"
    ):
        carried.load({})
    assert carried_of(make_config(), example("4")) is None


def test_recipes_that_cannot_carry_a_state_are_refused(make_config: MakeConfig) -> None:
    config = sequential(make_config())
    with pytest.raises(ValidationError, match="cannot change context, batch_size or accumulation"):
        replace(config, stages=(StageConfig(max_steps=2, context=48),))
    with pytest.raises(ValidationError, match=r"distributed\.context parts a sample"):
        replace(config, distributed=DistributedConfig(context=2))
