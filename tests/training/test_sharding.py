"""A model in parts trains as a whole one does: the same losses, weights and files, with less in each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from receptance.errors import ConfigError
from receptance.training import (
    Config,
    DistributedConfig,
    GuardConfig,
    SamplesConfig,
    load_config,
    save_config,
    train,
)
from receptance.training.run_folder import RunFolder
from receptance.training.sharding import nothing
from tests.models.examples import EXAMPLES, example
from tests.training.conftest import MakeConfig
from tests.training.test_distributed import (
    CALM,
    Ranks,
    assert_close_records,
    assert_equal_but_for_rounding,
    elsewhere,
    files,
    log,
    longer,
    newest,
    ranks,
)

FSDP = DistributedConfig(strategy="fsdp")
PARTS = {"state-00001-of-00002.safetensors", "state-00002-of-00002.safetensors"}


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with ranks(2) as pair:
        yield pair


def sharded(config: Config, name: str = "sharded") -> Config:
    return replace(elsewhere(config, name), distributed=FSDP)


def last_snapshot(config: Config) -> Path:
    snapshots = RunFolder(config.run.folder).snapshots
    return snapshots.path(snapshots.steps()[-1])


RUNS: dict[str, dict[str, Any]] = {
    "a batch in halves": {"ema_decay": 0.9, "max_logit_weight": 1e-2, "gradient_clip": 0.1},
    "documents of unlike length in chunks": {"reset_at_borders": True, "batch_size": 5, "chunk": 10},
    "what is forgotten is read again": {
        "generation": "7",
        "hidden_size": 64,
        "head_size": 32,
        "activation_checkpointing": True,
    },
}


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_with_half_a_model_each_train_as_one_does(
    two: Ranks, make_config: MakeConfig, run: str
) -> None:
    config = make_config(validate_every=3, **CALM, **RUNS[run])
    alone = train(config)
    answers = two.train(sharded(config))
    assert [answer["step"] for answer in answers] == [6, 6]
    assert alone.validation is not None
    assert answers[0]["validation"] == pytest.approx(alone.validation.loss, rel=1e-5)
    assert_equal_but_for_rounding(config, sharded(config))
    for name in ("model.safetensors", "model-ema.safetensors")[: 1 + bool(config.optimizer.ema_decay)]:
        one, other = (load_file(run.run.folder / name) for run in (config, sharded(config)))
        assert one.keys() == other.keys()
        for key, weight in one.items():
            assert_close(other[key], weight, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_four_processes_with_a_quarter_of_a_model_each_train_as_one_does(make_config: MakeConfig) -> None:
    config = make_config(batch_size=3, accumulation=2, validate_every=3, **CALM)  # shares of 1, 2, 1 and 2
    train(config)
    with ranks(4) as four:
        four.train(sharded(config))
    assert_equal_but_for_rounding(config, sharded(config))


def test_bfloat16_and_dropout_are_those_of_whole_models(two: Ranks, make_config: MakeConfig) -> None:
    config = make_config(accumulation=2, dtype="bfloat16", dropout=0.2, **CALM)
    two.train(config)
    two.train(sharded(config))
    assert_equal_but_for_rounding(config, sharded(config))
    weights = load_file(config.run.folder / "model.safetensors")
    assert weights["head.weight"].dtype == torch.bfloat16
    for name, weight in load_file(sharded(config).run.folder / "model.safetensors").items():
        assert weight.dtype == weights[name].dtype


def test_each_process_writes_its_rows_and_the_manifest_speaks_of_all(
    two: Ranks, make_config: MakeConfig
) -> None:
    config = sharded(make_config(max_steps=2))
    two.train(config)
    folder = last_snapshot(config)
    said = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert said.keys() == PARTS == {path.name for path in folder.iterdir()} - {"manifest.json"}
    first, second = (load_file(folder / name) for name in sorted(PARTS))
    assert {name for name in first if name not in second} == {
        name for name, tensor in newest(config).tensors.items() if tensor.ndim < 2
    }
    matrices = sum(tensor.numel() for tensor in second.values())
    assert matrices == sum(first[name].numel() for name in second)  # the halves are even here
    vectors = sum(tensor.numel() for name, tensor in first.items() if name not in second)
    assert vectors < matrices / 4
    for name, rows in second.items():
        whole = newest(config).tensors[name]
        assert torch.equal(whole, torch.cat([first[name], rows]))
    exported = load_file(config.run.folder / "model.safetensors")
    for name, weight in exported.items():
        assert torch.equal(weight, newest(config).tensors[f"master.{name}"])


def test_a_run_that_is_stopped_goes_on_to_the_bit(two: Ranks, make_config: MakeConfig) -> None:
    config = sharded(make_config(accumulation=2, dtype="bfloat16", ema_decay=0.9), "whole")
    stopped = elsewhere(config, "stopped")
    whole = two.train(config)
    two.train(stopped, stop=[1, 3])
    assert two.train(stopped, resume=True) == whole
    assert log(stopped) == log(config)
    first, second = newest(config).tensors, newest(stopped).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_snapshot_of_parts_goes_on_in_any_number_of_processes(
    two: Ranks, make_config: MakeConfig, record_property: Any
) -> None:
    config = make_config(plateau=1.0, **CALM)
    moved = elsewhere(config, "moved")
    train(config)
    two.train(replace(longer(moved, 2), distributed=FSDP))
    train(longer(moved, 3), resume=True)
    two.train(replace(longer(moved, 4), distributed=FSDP), resume=True)
    two.train(longer(moved, 5), resume=True)
    two.train(replace(moved, distributed=FSDP), resume=True)
    steps = [[record for record in log(one) if record["kind"] == "training"] for one in (config, moved)]
    for one, other in zip(*steps, strict=True):
        assert_close_records(one, other)
    for name, tensor in newest(config).tensors.items():
        assert_close(newest(moved).tensors[name], tensor, rtol=0, atol=1e-5)
    record_property("figure", "T8 2 in parts → 1 → 2 in parts → 2 whole → 2 in parts: as one never stopped")


@pytest.mark.slow
def test_a_snapshot_of_four_parts_goes_on_in_two_and_back(two: Ranks, make_config: MakeConfig) -> None:
    config = make_config(plateau=1.0, **CALM)
    moved = sharded(config)
    train(config)
    with ranks(4) as four:
        four.train(longer(moved, 2))
        two.train(longer(moved, 4), resume=True)
        four.train(moved, resume=True)
    for name, tensor in newest(config).tensors.items():
        assert_close(newest(moved).tensors[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("damage", ["a bit", "a part that is gone"])
def test_where_one_part_is_damaged_all_go_on_from_the_snapshot_before(
    two: Ranks, make_config: MakeConfig, damage: str
) -> None:
    config = sharded(make_config(save_every=3))
    whole = two.train(config)
    path = last_snapshot(config) / max(PARTS)
    if damage == "a bit":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    before = log(config)
    assert two.train(config, resume=True) == whole
    assert log(config) == before
    assert (config.run.folder / "snapshots" / "step-00000006.damaged").is_dir()


@pytest.mark.parametrize("policy", ["skip", "rollback", "stop"])
def test_a_bad_step_of_one_process_is_that_of_both(two: Ranks, make_config: MakeConfig, policy: Any) -> None:
    guard = GuardConfig(policy=policy, skips=int(policy == "skip"))
    config = sharded(replace(make_config(save_every=1, accumulation=2), guard=guard))
    answers = two.train(config, spoil=[1, 3])
    if policy == "stop":
        assert answers[0] == answers[1]
        assert "step 3: the loss is nan" in answers[0]["error"]
        return
    assert [answer["step"] for answer in answers] == [6, 6]
    kinds = {record["step"]: record["kind"] for record in log(config) if record["kind"] != "validation"}
    assert kinds == {1: "training", 2: "training", 3: policy, 4: "training", 5: "training", 6: "training"}
    assert all(tensor.isfinite().all() for tensor in newest(config).tensors.values())


def test_samples_are_those_of_a_whole_model_and_written_once(two: Ranks, make_config: MakeConfig) -> None:
    samples = SamplesConfig(prompts=("import ",), max_tokens=4)
    config = replace(make_config(max_steps=2, **CALM), samples=samples)
    for run in (config, sharded(config)):
        two.train(run)
    one, other = (
        [record for record in log(run) if record["kind"] == "sample"] for run in (config, sharded(config))
    )
    assert one == other
    assert len(one) == 1


def test_a_process_alone_has_the_whole_model(make_config: MakeConfig) -> None:
    config = make_config(max_steps=1)
    train(config)
    train(sharded(config))
    assert log(config) == log(sharded(config))
    assert files(config) == files(sharded(config))


def test_parts_are_not_compiled(tmp_path: Path, make_config: MakeConfig) -> None:
    save_config(make_config(compile=True), tmp_path / "recipe.toml")
    with pytest.raises(ConfigError, match=r"neither with training\.compile"):
        load_config(tmp_path / "recipe.toml", ["--distributed.strategy=fsdp"])


@pytest.mark.parametrize("generation", EXAMPLES)
def test_what_holds_no_token_leaves_the_state_and_the_gradient_alone(generation: str) -> None:
    model = example(generation)
    tokens = torch.randint(model.config.vocabulary_size, (3, 5))
    _, state = model(tokens)
    batch = nothing(3)
    lengths = torch.from_numpy(batch.lengths)
    loss, nats, _, end = model.loss(
        torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets), state, lengths
    )
    assert float(loss.detach()) == float(nats) == 0
    for name, tensor in end.tensors().items():
        assert torch.equal(tensor, state.tensors()[name])
    loss.backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())
