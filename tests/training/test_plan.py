from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from receptance.errors import ConfigError
from receptance.training import StageConfig, plan, train
from tests.training.conftest import MakeConfig


def peak_of_the_allocator(config: object) -> int:
    """Train, and return the most bytes that torch's own allocator had given out at a time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        train(config)  # type: ignore[arg-type]
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("generation", "keys"),
    [
        ("4", {"accumulation": 2}),
        ("5", {"dtype": "bfloat16"}),
        ("6", {"dtype": "bfloat16", "accumulation": 2, "ema_decay": 0.9}),
        ("7", {}),
        ("7", {"chunk": 32}),
        ("7", {"chunk": 32, "chunk_gradient": "truncated", "dtype": "bfloat16"}),
        ("7", {"activation_checkpointing": True}),
    ],
)
def test_the_memory_is_within_a_tenth_of_what_torch_allocates(
    make_config: MakeConfig, generation: str, keys: dict[str, object]
) -> None:
    sizes = {"generation": generation, "num_layers": 2, "hidden_size": 64, "vocabulary_size": 1024}
    config = make_config(**sizes, context=128, batch_size=4, max_steps=2, **keys)
    found = plan(config, flops=1.0).stages[0].memory.tensors
    taken = peak_of_the_allocator(config)
    print(f"RWKV-{generation} {keys}: planned {found / 1e6:.1f} MB, allocated {taken / 1e6:.1f} MB")
    assert found == pytest.approx(taken, rel=0.1)


def test_fsdp_in_several_processes_is_refused_with_what_can_be_planned(make_config: MakeConfig) -> None:
    config = make_config(vocabulary_size=10, batch_size=4)
    sharded = replace(config, distributed=replace(config.distributed, strategy="fsdp"))
    with pytest.raises(ConfigError, match=r"--distributed\.strategy=ddp"):
        plan(sharded, processes=2, flops=1.0)
    alone, with_ddp = (plan(each, flops=1.0).stages[0].memory for each in (sharded, config))
    assert replace(alone, program=0) == replace(with_ddp, program=0)


def test_weights_and_optimizer_take_what_their_numbers_do(make_config: MakeConfig) -> None:
    config = make_config(vocabulary_size=10, num_layers=2, hidden_size=32, dtype="bfloat16", ema_decay=0.9)
    found = plan(config, flops=1.0)
    matrices = 2 * 10 * 32 + 2 * 13 * 32 * 32
    vectors = found.parameters - matrices
    memory = found.stages[0].memory
    assert memory.weights == 2 * matrices + 4 * vectors
    assert memory.masters == 4 * matrices
    assert memory.average == 4 * found.parameters
    assert memory.moments == pytest.approx(8 * found.parameters, abs=0)
    assert found.snapshot_bytes == pytest.approx(16 * found.parameters, rel=0.01)


def test_a_snapshot_takes_the_disk_that_was_planned(make_config: MakeConfig) -> None:
    config = make_config(keep_last=1)
    train(config)
    (snapshot,) = (config.run.folder / "snapshots").glob("step-*")
    content = sum(file.stat().st_size for file in snapshot.iterdir())
    assert plan(config, flops=1.0).snapshot_bytes == pytest.approx(content, rel=0.3)  # names, and the recipe


def test_processes_share_the_samples_and_the_work(make_config: MakeConfig) -> None:
    config = make_config(batch_size=8, context=64)
    alone, shared = (plan(config, processes=count, flops=1e6) for count in (1, 4))
    activations = [found.stages[0].memory.activations for found in (alone, shared)]
    assert activations[0] == pytest.approx(4 * activations[1], rel=0.05)
    assert alone.stages[0].seconds_per_step == 8 * 64 * alone.flops_per_token / 1e6
    assert shared.stages[0].seconds_per_step == pytest.approx(alone.stages[0].seconds_per_step / 4)
    with pytest.raises(ConfigError, match="9 processes share them"):
        plan(config, processes=9)


def test_the_whole_run_is_the_sum_of_its_stages(make_config: MakeConfig) -> None:
    stages = (StageConfig(max_steps=2), StageConfig(max_tokens=500, batch_size=8))
    config = replace(make_config(context=32, batch_size=4), stages=stages)
    found = plan(config, flops=1e9)
    assert found.sizes.vocabulary_size == 256  # of the text
    assert found.steps == 4
    assert found.tokens == 2 * 32 * 4 + 2 * 32 * 8
    assert found.flops == found.tokens * found.flops_per_token
    assert found.seconds == pytest.approx(found.flops / 1e9)


def test_a_context_longer_than_memory_takes_its_chunks_and_the_states_between_them(
    make_config: MakeConfig,
) -> None:
    keys = {"generation": "7", "num_layers": 2, "hidden_size": 64, "chunk": 64}
    short, long = (
        plan(make_config(**keys, context=64 * count), flops=1.0).stages[0].memory.activations
        for count in (4, 104)
    )
    state = 4 * 2 * 4 * (2 * 64 + 64 * 64)  # bytes * layers * batch * (the last inputs, the memory)
    assert long - short == 100 * state


def test_the_time_is_measured_where_no_speed_is_given(make_config: MakeConfig) -> None:
    seconds = plan(make_config()).stages[0].seconds_per_step
    assert seconds is not None
    assert 0 < seconds < 60
    assert plan(make_config(device="cuda:9")).stages[0].seconds_per_step is None


def test_without_text_the_vocabulary_is_asked_for(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(folder=tmp_path / "nothing")
    config = replace(config, data=replace(config.data, folder=tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"nothing.*--model\.vocabulary_size"):
        plan(config)


def test_a_device_that_there_is_not_is_named_by_its_key(make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises(ConfigError, match=r"run\.device is 'nonsense', which is no device"):
        plan(replace(config, run=replace(config.run, device="nonsense")))
