from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from receptance.errors import ConfigError
from receptance.training import Config, DistributedConfig, World, fit, plan, train
from receptance.training.context_parallel import Relay
from receptance.training.fit import check_fits
from receptance.training.session import checked_sizes, on_paper, opened_corpus
from tests.training.conftest import MakeConfig


def check(config: Config, world: World) -> None:
    check_fits(
        config, on_paper(config, checked_sizes(config.model, opened_corpus(config))), Relay(world=world)
    )


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The bytes that the system says are free, to be changed."""
    said: list[float | None] = [None]

    def free_bytes(*, with_swap: bool) -> int | None:
        assert with_swap
        return None if said[0] is None else int(said[0])

    monkeypatch.setattr(fit, "free_bytes", free_bytes)
    return said


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"batch_size": 10**9},
            r"training\.batch_size 1,000,000,000 × training\.accumulation 1 .* GB are free",
        ),
        ({"accumulation": 10**10}, r"training\.accumulation 10,000,000,000 .* alone take [\d,.]+ GB"),
        (
            {"batch_size": 10**7},
            r"training\.batch_size is 10,000,000.* of 24 tokens .* at least .*training\.chunk",
        ),
        (
            {"hidden_size": 2**19},
            r"\[model\] has 2 layers of 524,288, which take .* smaller model\.num_layers",
        ),
    ],
)
def test_the_absurd_is_refused_by_its_key_before_anything_is_made(
    make_config: MakeConfig, keys: dict[str, int], message: str
) -> None:
    config = make_config(**keys)
    with pytest.raises(ConfigError, match=message):
        train(config)
    assert not config.run.folder.exists()


def test_a_run_is_refused_where_its_count_exceeds_what_is_free_and_not_where_that_is_uncertain(
    make_config: MakeConfig, free: list[float | None]
) -> None:
    config = make_config(batch_size=16, context=64, max_steps=1)
    counted = plan(config, flops=1.0).stages[0].memory.tensors
    free[0] = 0.8 * counted
    with pytest.raises(
        ConfigError, match=r"training\.batch_size is 16, .*accumulation.*activation_checkpointing"
    ):
        train(config)
    free[0] = None
    check(config, World())
    free[0] = counted
    train(config)
    free[0] = 1000
    with pytest.raises(ConfigError, match=r"\[model\] has 2 layers of 16, which take [\d.]+ MB"):
        train(config, resume=True)


def test_processes_of_one_machine_share_its_memory(make_config: MakeConfig, free: list[float | None]) -> None:
    config = make_config(batch_size=16, context=64)
    shared = World(size=2, local_size=2)
    free[0] = 1.5 * plan(config, processes=2, flops=1.0).stages[0].memory.tensors
    check(config, replace(shared, local_size=1))
    with pytest.raises(ConfigError, match=r"are free for each of the 2 processes"):
        check(config, shared)


def test_a_model_that_is_too_large_for_one_process_may_be_shared(
    make_config: MakeConfig, free: list[float | None]
) -> None:
    config = make_config(num_layers=2, hidden_size=256, batch_size=2, context=8)
    free[0] = 1.2 * plan(config, processes=2, flops=1.0).stages[0].memory.moments
    world = World(size=2)  # on two machines
    with pytest.raises(ConfigError, match=r"distributed\.strategy = \"fsdp\""):
        check(config, world)
    check(replace(config, distributed=DistributedConfig(strategy="fsdp")), world)


def test_a_gpu_is_asked_for_its_own_memory(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", {torch.device("cuda:1"): (10**4, 10**9)}.__getitem__)
    with pytest.raises(ConfigError, match=r"but 0\.0 MB are free"):
        check(make_config(device="cuda:1"), World())
    check(make_config(device="cuda:7"), World())  # which torch will refuse
