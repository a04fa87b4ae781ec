from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from receptance import checkpoints
from receptance.errors import ConfigError, ReceptanceError
from receptance.models import RWKV4, RWKV4Config
from receptance.training import Config, ModelConfig, StageConfig, plan, train
from tests.training.conftest import MakeConfig


def test_fsdp_in_several_processes_is_refused_with_what_can_be_planned(make_config: MakeConfig) -> None:
    config = make_config(batch_size=4)
    sharded = replace(config, distributed=replace(config.distributed, strategy="fsdp"))
    with pytest.raises(ConfigError, match=r"--distributed\.strategy=ddp"):
        plan(sharded, processes=2, flops=1.0)
    alone, with_ddp = (plan(each, flops=1.0).stages[0].memory for each in (sharded, config))
    assert replace(alone, program=0) == replace(with_ddp, program=0)


def test_weights_and_optimizer_take_what_their_numbers_do(make_config: MakeConfig) -> None:
    config = make_config(vocabulary_size=300, num_layers=2, hidden_size=32, dtype="bfloat16", ema_decay=0.9)
    found = plan(config, flops=1.0)
    matrices = 2 * 300 * 32 + 2 * 13 * 32 * 32
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


@pytest.mark.parametrize(
    "spoil",
    [
        lambda config, folder: replace(config, model=replace(config.model, vocabulary_size=200)),
        lambda config, folder: replace(config, data=replace(config.data, context=10**6)),
        lambda config, folder: replace(config, data=replace(config.data, tokenizer="world")),
        lambda config, folder: (folder / "train.bin").unlink(),
        lambda config, folder: (folder / "train.bin").write_bytes(b"3") and None,
        lambda config, folder: replace(config, model=ModelConfig(initial=other_model(folder.parent))),
    ],
    ids=["vocabulary", "context", "tokenizer", "no store", "damaged store", "other model"],
)
def test_what_is_wrong_with_a_text_that_is_there_is_said_as_before_a_run(
    make_config: MakeConfig, data: Path, tmp_path: Path, spoil: Callable[[Config, Path], Config | None]
) -> None:
    config = make_config(vocabulary_size=256)
    config = replace(config, data=replace(config.data, folder=shutil.copytree(data, tmp_path / "text")))
    assert plan(config, flops=1.0).has_text
    config = spoil(config, tmp_path / "text") or config
    with pytest.raises(ReceptanceError) as in_plan:
        plan(config, flops=1.0)
    with pytest.raises(type(in_plan.value), match=f"^{re.escape(str(in_plan.value))}$"):
        train(config)
    assert not config.run.folder.exists()


def other_model(folder: Path) -> Path:
    """Write a model of another tokenizer than the text's, and return its path."""
    model = RWKV4(RWKV4Config(vocabulary_size=256, num_layers=1, hidden_size=16))
    checkpoints.save(model, folder / "other.safetensors", tokenizer="world")
    return folder / "other.safetensors"


def test_a_text_that_is_yet_to_be_prepared_is_not_missed(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(vocabulary_size=256)
    (tmp_path / "unfinished").mkdir()
    for name in ("nowhere", "unfinished"):
        found = plan(replace(config, data=replace(config.data, folder=tmp_path / name)), flops=1.0)
        assert not found.has_text
        assert found.parameters == plan(config, flops=1.0).parameters


def test_more_memory_than_any_machine_has_is_refused_by_its_keys(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size is 100,000,000,000,000 .*at least .* PiB"):
        plan(make_config(batch_size=10**14))


def test_a_device_that_there_is_not_is_named_by_its_key(make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises(ConfigError, match=r"run\.device is 'nonsense', which is no device"):
        plan(replace(config, run=replace(config.run, device="nonsense")))
