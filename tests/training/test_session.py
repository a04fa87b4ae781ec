from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints import Tuning
from receptance.data import prepare
from receptance.errors import CheckpointError, ConfigError, DataError, TrainingError
from receptance.models import RWKV6, RWKV6Config
from receptance.training import Config, ModelConfig, Progress, load_config, resume_config, train
from receptance.training.metrics import read_metrics
from receptance.training.recipe import save_config
from receptance.training.run_folder import RunFolder
from receptance.training.snapshot import Snapshot, load_snapshot
from tests.training.conftest import MakeConfig

TIMES = ("seconds", "tokens_per_second")


def log(folder: Path) -> list[dict[str, Any]]:
    """Return the log of a run without what a clock says."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def elsewhere(config: Config, name: str) -> Config:
    return replace(config, run=replace(config.run, folder=config.run.folder.with_name(name)))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file in a folder and below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_after(step: int) -> tuple[Callable[[Progress], None], Callable[[], bool]]:
    """Return (report, stop) that end a run after a step."""
    seen: list[int] = []
    return lambda progress: seen.append(progress.step), lambda: seen[-1] >= step


def newest(folder: Path) -> Snapshot:
    snapshots = RunFolder(folder).snapshots
    return load_snapshot(snapshots.path(snapshots.steps()[-1]))


def assert_same_run(one: Path, other: Path) -> None:
    assert log(one) == log(other)
    first, second = (newest(folder).tensors for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    models = [checkpoints.load(folder / "model.safetensors").model.state_dict() for folder in (one, other)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stopped", [1, 4, 7])
def test_a_stopped_run_goes_on_bit_for_bit(make_config: MakeConfig, dtype: str, stopped: int) -> None:
    config = make_config(
        dtype=dtype,
        max_steps=8,
        batch_size=3,
        accumulation=2,
        validate_every=4,
        plateau=0.3,
        weight_decay=0.1,
    )
    train(config)
    broken = elsewhere(config, "broken")
    report, stop = stop_after(stopped)
    result = train(broken, report=report, stop=stop)
    assert result.interrupted
    assert result.step == stopped
    assert not train(resume_config(broken.run.folder), resume=True).interrupted
    assert_same_run(config.run.folder, broken.run.folder)


def test_a_validation_that_several_sessions_had_no_time_for_is_not_lost(make_config: MakeConfig) -> None:
    config = make_config(max_steps=3, validate_every=1)
    stopped = elsewhere(config, "stopped")
    train(config)
    assert train(stopped, stop=lambda: True).step == 1
    again = train(stopped, resume=True, stop=lambda: True)
    assert (again.step, again.interrupted) == (1, True)
    train(stopped, resume=True)
    assert_same_run(config.run.folder, stopped.run.folder)


def test_a_killed_run_goes_on_from_its_last_snapshot(make_config: MakeConfig) -> None:
    class KilledError(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 6:
            raise KilledError

    config = make_config(max_steps=8, save_every=4, validate_every=5)
    train(config)
    broken = elsewhere(config, "broken")
    with pytest.raises(KilledError):
        train(broken, report=kill)
    with (broken.run.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "traini')
    train(resume_config(broken.run.folder), resume=True)
    assert_same_run(config.run.folder, broken.run.folder)


def test_a_run_folder_holds_what_is_needed_to_use_and_repeat_it(make_config: MakeConfig) -> None:
    config = make_config()
    result = train(config)
    names = {path.name for path in result.folder.path.iterdir()}
    assert names == {"config.toml", "metrics.jsonl", "model.safetensors", "snapshots", "loss.png"}
    assert load_config(result.folder.config) == config
    found = checkpoints.load(result.folder.checkpoint)
    assert found.tokenizer == "bytes"
    assert found.metadata["training_step"] == "6"
    logits, _ = found.model(torch.tensor([[100, 101, 102]]))
    assert logits.shape == (1, 3, 256)
    repeated = elsewhere(config, "repeated")
    train(repeated)
    assert_same_run(config.run.folder, repeated.run.folder)


def test_the_tokenizers_file_lies_beside_the_model(tmp_path: Path, make_config: MakeConfig) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the hat\n" * 40, encoding="utf-8")
    prepare(tmp_path / "text.txt", tmp_path / "data", tokenizer="bpe:300", validation_fraction=0.0)
    config = make_config(max_steps=1)
    config = replace(config, data=replace(config.data, folder=tmp_path / "data"))
    result = train(config)
    copied = (result.folder.path / "tokenizer.json").read_bytes()
    assert copied == (tmp_path / "data" / "tokenizer.json").read_bytes()
    assert checkpoints.load(result.folder.checkpoint).tokenizer == "tokenizer.json"


def test_another_seed_gives_another_run(make_config: MakeConfig) -> None:
    config = make_config(max_steps=2)
    other = elsewhere(make_config(max_steps=2, seed=1), "other")
    for one in (config, other):
        train(one)
    assert log(config.run.folder)[0]["loss"] != log(other.run.folder)[0]["loss"]


def test_a_used_folder_is_refused_and_left_alone(make_config: MakeConfig) -> None:
    config = make_config(max_steps=1)
    train(config)
    before = contents(config.run.folder)
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume .*--run\.folder"):
        train(config)
    assert contents(config.run.folder) == before


def test_a_run_whose_snapshots_are_gone_is_not_begun_again(make_config: MakeConfig) -> None:
    config = make_config(max_steps=1)
    train(config)
    shutil.rmtree(config.run.folder / "snapshots")
    before = contents(config.run.folder)
    with pytest.raises(TrainingError, match=r"snapshots are gone.*model\.initial="):
        train(resume_config(config.run.folder), resume=True)
    assert contents(config.run.folder) == before


def test_a_run_that_ended_before_its_first_snapshot_begins_again(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(max_steps=3)
    train(config)
    early = elsewhere(config, "early")
    early.run.folder.mkdir()
    save_config(early, early.run.folder / "config.toml")
    (early.run.folder / "metrics.jsonl").write_text('{"kind": "training", "step": 1}\n', encoding="utf-8")
    (early.run.folder / ".model.safetensors.0123abcd.tmp").touch()
    train(resume_config(early.run.folder), resume=True)
    assert "it starts again" in caplog.text
    assert_same_run(config.run.folder, early.run.folder)
    assert not list(early.run.folder.glob(".*"))


def test_two_processes_never_train_in_one_folder(make_config: MakeConfig) -> None:
    config = make_config(max_steps=1)
    train(config)
    with RunFolder(config.run.folder).claimed(), pytest.raises(ConfigError, match="another process is train"):
        train(resume_config(config.run.folder), resume=True)
    assert train(resume_config(config.run.folder), resume=True).step == 1


def test_a_finished_run_stays_as_it_is_until_it_is_given_more(make_config: MakeConfig) -> None:
    config = make_config(max_steps=3)
    train(config)
    before = log(config.run.folder)
    result = train(resume_config(config.run.folder), resume=True)
    assert (result.step, result.interrupted) == (3, False)
    assert result.validation is not None
    assert log(config.run.folder) == before
    more = train(resume_config(config.run.folder, ["--training.max_steps=5"]), resume=True)
    assert more.step == 5
    assert load_config(more.folder.config).training.max_steps == 5


@pytest.mark.parametrize(
    "override",
    [
        "--run.seed=5",
        "--model.num_layers=3",
        "--training.dtype=bfloat16",
    ],
)
def test_going_on_cannot_change_what_was_computed(make_config: MakeConfig, override: str) -> None:
    config = make_config(max_steps=1)
    train(config)
    key = override.removeprefix("--").partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key} is .* was trained with .*model\.initial="):
        train(resume_config(config.run.folder, [override, "--training.max_steps=2"]), resume=True)


@pytest.mark.parametrize(
    "override", ["--data.context=12", "--training.batch_size=2", "--training.accumulation=3"]
)
def test_going_on_cannot_change_what_was_read(make_config: MakeConfig, override: str) -> None:
    config = make_config(max_steps=1)
    train(config)
    key = override.removeprefix("--").partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}.*took its first 1 steps.*further \[\[stages\]\]"):
        train(resume_config(config.run.folder, [override, "--training.max_steps=2"]), resume=True)


def test_a_run_goes_on_in_a_stage_that_was_added_to_it(make_config: MakeConfig) -> None:
    config = make_config(max_steps=2)
    train(config)
    path = config.run.folder / "config.toml"
    further = "\n[[stages]]\nmax_steps = 2\n[[stages]]\nmax_steps = 2\ncontext = 48\n"
    text = path.read_text(encoding="utf-8").replace("max_steps = 2", "max_steps = 0")
    path.write_text(text.replace("stages = []", "") + further, encoding="utf-8")
    result = train(resume_config(config.run.folder), resume=True)
    assert (result.step, result.tokens) == (4, 2 * 4 * 24 + 2 * 4 * 48)


def test_going_on_needs_the_same_text(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(max_steps=1)
    train(config)
    (tmp_path / "text.txt").write_text("another text altogether\n" * 40, encoding="utf-8")
    prepare(tmp_path / "text.txt", tmp_path / "data", tokenizer="bytes", validation_fraction=0.0)
    overrides = ["--training.max_steps=2", f"--data.folder={tmp_path / 'data'}"]
    with pytest.raises(ConfigError, match=r"'tokens': 961.* was trained on .*'tokens'.*--data\.folder"):
        train(resume_config(config.run.folder, overrides), resume=True)


def test_a_moved_run_folder_can_go_on(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(max_steps=2)
    train(config)
    config.run.folder.rename(tmp_path / "moved")
    assert train(resume_config(tmp_path / "moved", ["training.max_steps=3"]), resume=True).step == 3
    assert not config.run.folder.exists()


def test_nothing_to_go_on_from_is_an_error(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        resume_config(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="nothing to go on from"):
        train(make_config(), resume=True)


def test_training_goes_on_from_a_checkpoints_loss(make_config: MakeConfig, data: Path) -> None:
    config = make_config(max_steps=40, hidden_size=32)
    first = train(config)
    assert first.validation is not None
    model = replace(config.model, initial=first.folder.checkpoint, num_layers=0, hidden_size=0)
    tuned = elsewhere(replace(config, model=model), "tuned")
    rate = replace(config.optimizer, learning_rate=0.0, final_learning_rate=0.0)
    still = replace(tuned, optimizer=rate, training=replace(config.training, max_steps=1))
    second = train(still)
    assert second.validation is not None
    assert second.validation.loss == pytest.approx(first.validation.loss, rel=1e-6)
    resumed = train(resume_config(second.folder.path, ["--training.max_steps=2"]), resume=True)
    assert resumed.step == 2


def test_a_checkpoint_of_another_tokenizer_is_refused_before_a_step(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    first = train(make_config(max_steps=1))
    for animal in ("cat", "owl"):
        text = tmp_path / f"{animal}.txt"
        text.write_text(f"the {animal} sat on the mat and the hat\n" * 40, encoding="utf-8")
        prepare(text, tmp_path / animal, tokenizer="bpe:270", validation_fraction=0.0)

    def tuned(initial: Path, name: str, data: str) -> Config:
        config = elsewhere(make_config(max_steps=1), name)
        model = replace(config.model, initial=initial, num_layers=0, hidden_size=0)
        return replace(config, model=model, data=replace(config.data, folder=tmp_path / data))

    with pytest.raises(ConfigError, match=r"tokenizer 'bytes', but .* was prepared with 'tokenizer\.json'"):
        train(tuned(first.folder.checkpoint, "one", "cat"))
    config = make_config(max_steps=1)
    learnt = train(elsewhere(replace(config, data=replace(config.data, folder=tmp_path / "cat")), "learnt"))
    with pytest.raises(ConfigError, match=r"learnt/tokenizer\.json is not the tokenizer that"):
        train(tuned(learnt.folder.checkpoint, "two", "owl"))
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vocabulary_size": 200}, ConfigError, r"vocabulary of 200, but .*'bytes', which has 256"),
        ({"context": 10**6}, DataError, r"context of 1,000,000"),
        ({"device": "abacus"}, ConfigError, r"run\.device is 'abacus'"),
        (
            {"initial": Path("nowhere.pth"), "num_layers": 0, "hidden_size": 0},
            CheckpointError,
            r"nowhere\.pth",
        ),
    ],
)
def test_what_does_not_fit_together_is_said_before_a_folder_is_made(
    make_config: MakeConfig, change: dict[str, object], error: type[Exception], message: str
) -> None:
    config = make_config(**change)
    with pytest.raises(error, match=message):
        train(config)
    assert not config.run.folder.exists()


def test_text_that_was_not_prepared_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    with pytest.raises(DataError, match="receptance prepare"):
        train(replace(config, data=replace(config.data, folder=tmp_path)))


def test_a_larger_vocabulary_than_the_tokenizers_is_allowed(make_config: MakeConfig) -> None:
    result = train(make_config(max_steps=1, vocabulary_size=320))
    assert checkpoints.load(result.folder.checkpoint).model.config.vocabulary_size == 320


@pytest.mark.parametrize(
    ("generation", "sizes"),
    [
        ("4", {"attention_size": 24}),
        ("5", {"head_size": 4}),
        ("6", {"head_size": 4, "mix_rank": 3, "decay_rank": 5}),
        ("7", {"head_size": 8, "decay_rank": 3, "in_context_rank": 4, "value_rank": 5, "gate_rank": 6}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_generation_learns_at_the_sizes_of_its_recipe(
    make_config: MakeConfig, generation: str, sizes: dict[str, int], dtype: str
) -> None:
    config = make_config(
        generation=generation, hidden_size=32, max_steps=12, weight_decay=0.1, dtype=dtype, **sizes
    )
    train(config)
    losses = [record["loss"] for record in log(config.run.folder) if record["kind"] == "training"]
    assert losses[-1] < losses[0] - 0.3
    trained = checkpoints.load(config.run.folder / "model.safetensors").model.config
    assert trained.generation == generation
    assert {name: getattr(trained, name) for name in sizes} == sizes


def test_a_size_that_the_generation_does_not_have_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"model\.mix_rank is 3, but RWKV-7 has none"):
        train(make_config(generation="7", mix_rank=3))
    with pytest.raises(ConfigError, match=r"hidden_size is 16, not a multiple of head_size 64"):
        train(make_config(generation="6"))


def test_a_tuned_state_of_the_model_that_a_run_begins_with_is_left_out_and_that_is_said(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = RWKV6(RWKV6Config(vocabulary_size=256, num_layers=1, hidden_size=64))
    checkpoints.save(model, tmp_path / "plain.safetensors")
    fresh = model.initial_state(1)
    state = replace(fresh, wkv=torch.ones_like(fresh.wkv))
    checkpoints.save_state(state, model.config, tmp_path / "state.pth")
    tuning = Tuning(state=tmp_path / "state.pth")
    checkpoints.convert(tmp_path / "plain.safetensors", tmp_path / "tuned.safetensors", tuning=tuning)
    config = make_config(max_steps=1)
    train(replace(config, model=ModelConfig(initial=tmp_path / "tuned.safetensors")))
    assert "tuned.safetensors carries a tuned state, which is left out" in caplog.text
    assert checkpoints.load(config.run.folder / "model.safetensors").initial_state is None
