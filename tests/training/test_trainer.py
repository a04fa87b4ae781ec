from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from receptance import checkpoints
from receptance.data import (
    NOT_LEARNT,
    Batch,
    Description,
    SplitStatistics,
    TokenStore,
    TokenStoreWriter,
    Windows,
    open_split,
    prepare,
    read_description,
)
from receptance.errors import TrainingError
from receptance.training import Config, Progress, Result, StageConfig, train
from receptance.training.metrics import Record, read_metrics
from receptance.training.optimizer import MasterAdamW
from receptance.training.trainer import with_weights
from tests.training.conftest import MakeConfig


def losses(folder: Path, kind: str = "training") -> list[float]:
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == kind]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoints.load(folder / "model.safetensors").model.state_dict())


def elsewhere(config: Config, name: str) -> Config:
    """Return the same run in a folder of another name."""
    return replace(config, run=replace(config.run, folder=config.run.folder.with_name(name)))


def test_the_loss_of_the_first_step_is_that_of_the_initialisation(make_config: MakeConfig) -> None:
    config = make_config(hidden_size=64, max_steps=1, batch_size=16)
    train(config)
    assert losses(config.run.folder)[0] == pytest.approx(math.log(256) + 0.125, abs=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_short_text_is_learnt_by_heart(tmp_path: Path, make_config: MakeConfig, dtype: str) -> None:
    verse = "The owl in the elm tree knows the tune,\nand hums it slowly to the moon.\n"
    (tmp_path / "verse.txt").write_text(verse * 4, encoding="utf-8")
    prepare(tmp_path / "verse.txt", tmp_path / "data", tokenizer="bytes", validation_fraction=0.0)
    config = make_config(hidden_size=32, context=64, max_steps=120, learning_rate=1e-2, dtype=dtype)
    result = train(replace(config, data=replace(config.data, folder=tmp_path / "data")))
    assert losses(config.run.folder)[-1] < 0.15
    assert result.validation is None  # nothing was held back


@pytest.mark.parametrize("masked", [False, True])
def test_accumulated_batches_give_the_gradient_of_one_large_batch(
    make_config: MakeConfig, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if masked:  # so that the parts of a step have unlike numbers of targets that count, one of them none
        whole_samples = Windows.samples

        def masked_samples(self: Windows, first: int, count: int) -> list[Batch]:
            (batch,) = whole_samples(self, first, count)
            is_masked = batch.tokens.sum(axis=1, keepdims=True) % 3 == 0
            return [replace(batch, targets=np.where(is_masked, NOT_LEARNT, batch.targets))]

        monkeypatch.setattr(Windows, "samples", masked_samples)
    whole = make_config(batch_size=8, max_logit_weight=1e-2)
    parts = elsewhere(whole, "parts")
    parts = replace(parts, training=replace(parts.training, batch_size=2, accumulation=4))
    for config in (whole, parts):
        train(config)
    assert losses(parts.run.folder) == pytest.approx(losses(whole.run.folder), rel=1e-5)
    norms = [
        [record["gradient_norm"] for record in read_metrics(config.run.folder / "metrics.jsonl")[:-1]]
        for config in (whole, parts)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert_close(weights(parts.run.folder), weights(whole.run.folder), rtol=0, atol=2e-4)


@pytest.mark.parametrize("weight", ["max_logit_weight", "z_loss_weight"])
def test_a_penalty_changes_the_gradient_and_not_the_loss_shown(make_config: MakeConfig, weight: str) -> None:
    plain = make_config(max_steps=1)
    punished = elsewhere(make_config(max_steps=1, **{weight: 1.0}), "punished")
    for config in (plain, punished):
        train(config)
    first, second = (read_metrics(config.run.folder / "metrics.jsonl")[0] for config in (plain, punished))
    assert first["loss"] == second["loss"]
    assert abs(first["gradient_norm"] - second["gradient_norm"]) > 0.01


def test_dropout_follows_from_the_seed_and_the_step_and_is_off_where_the_loss_is_measured(
    make_config: MakeConfig,
) -> None:
    config = make_config(dropout=0.5, accumulation=2)
    stopped = elsewhere(config, "stopped")
    train(config)
    train(stopped, stop=lambda: True)
    torch.manual_seed(12345)  # of what else a program draws nothing depends
    train(stopped, resume=True)
    for kind in ("training", "validation"):
        assert losses(stopped.run.folder, kind)[-1] == losses(config.run.folder, kind)[-1]
    assert losses(stopped.run.folder) == losses(config.run.folder)
    whole = elsewhere(make_config(max_steps=1, accumulation=2), "whole")
    train(whole)
    assert losses(whole.run.folder)[0] != losses(config.run.folder)[0]
    model = checkpoints.load(config.run.folder / "model.safetensors").model
    trained = with_weights(model, {}, model.dtype).drop(0.5).train()
    store = open_split(config.data.folder, "validation")
    tokens = torch.from_numpy(store.flat[None, : config.data.context].astype(np.int64))
    with torch.no_grad():
        assert not torch.equal(trained(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_moving_average_is_that_of_the_weights_of_each_step_and_survives_a_stop(
    make_config: MakeConfig, dtype: str
) -> None:
    config = make_config(ema_decay=0.9, dtype=dtype, save_every=1, max_steps=5)
    expected: dict[str, torch.Tensor] = {}

    def average(progress: Progress) -> None:
        kept = min(0.9, progress.step / (progress.step + 9))
        for name, master in masters[-1].items():
            before = expected.get(name, starts.get(name, master).double())
            expected[name] = kept * before + (1 - kept) * master.double()

    masters: list[dict[str, torch.Tensor]] = []
    starts: dict[str, torch.Tensor] = {}
    step = MasterAdamW.step

    def recording(self: MasterAdamW, *arguments: float) -> float:
        state = {name: tensor.clone() for name, tensor in self.state().items() if name.startswith("master.")}
        if not starts:
            starts.update({name.removeprefix("master."): tensor for name, tensor in state.items()})
        norm = step(self, *arguments)
        masters.append(
            {
                name.removeprefix("master."): tensor.clone()
                for name, tensor in self.state().items()
                if name.startswith("master.")
            }
        )
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MasterAdamW, "step", recording)
        train(config, report=average, stop=lambda: True)
        train(config, report=average, resume=True)
    assert len(masters) == 5
    found = checkpoints.load(config.run.folder / "model-ema.safetensors").model.state_dict()
    for name, tensor in expected.items():
        rounded = tensor.float().to(found[name].dtype)
        assert_close(found[name], rounded, rtol=1e-2 if dtype == "bfloat16" else 1e-5, atol=1e-6)
    assert not torch.equal(found["head.weight"], weights(config.run.folder)["head.weight"])


def test_the_validation_loss_is_the_mean_over_the_split_in_nats_and_bits(
    make_config: MakeConfig, data: Path
) -> None:
    config = make_config(validation_tokens=10**6)
    result = train(config)
    store = open_split(data, "validation")
    tokens = torch.from_numpy(store.flat.astype(np.int64))
    model = checkpoints.load(result.folder.checkpoint).model
    total, context = 0.0, config.data.context
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, context):
            span = tokens[start : start + context + 1]
            logits, _ = model(span[None, :-1])
            total += float(F.cross_entropy(logits[0].double(), span[1:], reduction="sum"))
    nats = total / (len(tokens) - 1)
    text_bytes = read_description(data).splits["validation"].bytes_of_text
    assert result.validation is not None
    assert result.validation.loss == pytest.approx(nats, rel=1e-5)
    assert result.validation.bits_per_byte == pytest.approx(
        nats / math.log(2) * len(tokens) / text_bytes, rel=1e-5
    )
    assert losses(config.run.folder, "validation") == [result.validation.loss]


def test_every_step_is_reported_and_logged(make_config: MakeConfig) -> None:
    seen: list[Progress] = []
    config = make_config(validate_every=2, log_every=3)
    result = train(config, report=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert [progress.tokens for progress in seen] == [96 * step for step in range(1, 7)]
    assert [progress.share for progress in seen] == pytest.approx([step / 6 for step in range(1, 7)])
    assert [progress.step for progress in seen if progress.validation] == [2, 4, 6]
    assert seen[-1].learning_rate == pytest.approx(config.optimizer.final_learning_rate)
    assert seen[-1].validation == result.validation
    records = read_metrics(config.run.folder / "metrics.jsonl")
    places = [(record["kind"], record["step"]) for record in records]
    assert places == [
        ("validation", 2),
        ("training", 3),
        ("validation", 4),
        ("training", 6),
        ("validation", 6),
    ]
    assert records[1]["loss"] == seen[2].loss
    assert (result.step, result.tokens, result.interrupted) == (6, 576, False)


def test_each_stage_reads_samples_of_its_own_context_and_batch_size(make_config: MakeConfig) -> None:
    seen: list[Progress] = []
    stages = (StageConfig(max_steps=2), StageConfig(max_tokens=200, context=48, batch_size=2, accumulation=2))
    config = replace(make_config(max_steps=0, max_tokens=10**6), stages=stages)
    result = train(config, report=seen.append)
    assert [progress.tokens for progress in seen] == [96, 192, 384, 576]
    assert seen[-1].learning_rate == pytest.approx(config.optimizer.final_learning_rate)
    assert (result.step, result.interrupted) == (4, False)


@pytest.mark.parametrize(
    ("bound", "steps"), [({"max_tokens": 300}, 4), ({"max_steps": 3, "max_tokens": 960}, 3)]
)
def test_the_first_bound_ends_the_run(make_config: MakeConfig, bound: dict[str, int], steps: int) -> None:
    assert train(make_config(**{"max_steps": 0, **bound})).step == steps  # type: ignore[arg-type]


def test_a_run_bounded_by_minutes_ends_in_time_with_its_rate_fallen(make_config: MakeConfig) -> None:
    seen: list[Progress] = []
    result = train(make_config(max_steps=10**6, max_minutes=0.02), report=seen.append)
    assert result.step > 3
    assert 1.2 <= result.seconds < 3
    assert seen[-1].share > 0.9
    assert seen[-1].learning_rate < 0.3 * seen[0].learning_rate
    assert seen[-1].seconds_left < 0.5


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_change(make_config: MakeConfig) -> None:
    config = make_config(learning_rate=1e30, final_learning_rate=1e30, save_every=1)
    with pytest.raises(TrainingError) as caught:
        train(config)
    text = str(caught.value)
    assert "step 2: " in text
    assert "not finite" in text or "the loss is" in text
    assert (
        f"snapshot of step 1 is whole. Go on from it by `receptance train --resume {config.run.folder}`"
        in text
    )
    assert len(losses(config.run.folder)) == 1
    assert all(tensor.isfinite().all() for tensor in weights(config.run.folder).values())


@contextmanager
def disk_of(num_bytes: int) -> Iterator[None]:
    """Refuse to make any file longer than this, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_run_and_leaves_the_last_good_files(make_config: MakeConfig) -> None:
    config = make_config(save_every=3, max_steps=100)
    folder = config.run.folder
    kept: dict[Path, bytes] = {}

    def fill_disk(progress: Progress) -> None:
        if progress.step == 5:
            kept.update({path: path.read_bytes() for path in folder.rglob("*.safetensors")})
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    with disk_of(resource.RLIM_INFINITY), pytest.raises(TrainingError) as caught:
        train(config, report=fill_disk)
    assert "step 6" in str(caught.value)
    assert "snapshot of step 3 is whole" in str(caught.value)
    snapshot = folder / "snapshots" / "step-00000003"
    assert kept.keys() == {folder / "model.safetensors", snapshot / "state.safetensors"}
    left = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix and path.is_file()}
    assert left.items() >= kept.items()
    others = {folder / "config.toml", folder / "metrics.jsonl", snapshot / "manifest.json"}
    assert left.keys() == {*kept, *others}  # no litter


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.usefixtures("shapes_unchecked")
def test_a_compiled_step_gives_the_same_losses(make_config: MakeConfig) -> None:
    eager = make_config(num_layers=1)
    compiled = elsewhere(make_config(num_layers=1, compile=True), "compiled")
    results: list[Result] = [train(config) for config in (eager, compiled)]
    assert losses(results[1].folder.path) == pytest.approx(losses(results[0].folder.path), rel=1e-5)


def test_records_hold_what_a_reader_needs(make_config: MakeConfig) -> None:
    config = make_config(max_steps=1)
    train(config)
    training, validation = read_metrics(config.run.folder / "metrics.jsonl")
    expected: Record = {
        "kind": "training",
        "step": 1,
        "tokens": 96,
        "bits_per_byte": pytest.approx(training["loss"] / math.log(2), rel=1e-2),  # a byte is a token here
        "learning_rate": pytest.approx(1e-3),
    }
    assert training.items() >= {"kind": "training", "step": 1, "tokens": 96}.items()
    assert {name: training[name] for name in expected} == expected
    assert {"loss", "gradient_norm", "tokens_per_second", "seconds"} <= training.keys()
    assert {"kind", "step", "tokens", "loss", "bits_per_byte", "seconds"} == validation.keys()


def masked_chats(folder: Path) -> Path:
    """Return a prepared folder of questions of many lengths, of which only the answers are learnt."""
    generator = np.random.default_rng(0)
    with TokenStoreWriter(folder / "train", 256) as writer:
        for size in generator.integers(5, 60, 80):
            document = np.append(generator.integers(97, 123, size), 0)
            writer.append(document, (np.arange(size + 1) > size // 2).astype(np.uint8))
    store = TokenStore(folder / "train")
    assert store.mask is not None
    learnt = int(store.mask.sum())
    split = SplitStatistics(
        documents=80, tokens=store.tokens, bytes_of_text=store.tokens - 80,
        longest_document=store.longest_document(), learnt_tokens=learnt, learnt_bytes=learnt - 80,
    )  # fmt: skip
    Description(
        tokenizer="bytes", tokenizer_file=None, vocabulary_size=256, end_of_text=0, splits={"train": split},
        empty=0, undecodable=0, duplicates=0, made_by={},
    ).write(folder)  # fmt: skip
    return folder


@pytest.mark.parametrize("generation", ["4", "7"])
@pytest.mark.parametrize("reset_at_borders", [False, True])
def test_the_loss_of_a_step_is_the_mean_over_the_learnt_tokens_however_they_are_batched(
    tmp_path: Path, make_config: MakeConfig, reset_at_borders: bool, generation: str
) -> None:
    sizes = {"head_size": 16} if generation == "7" else {}
    config = make_config(generation=generation, hidden_size=32, max_steps=2, batch_size=6, **sizes)
    data = replace(config.data, folder=masked_chats(tmp_path), reset_at_borders=reset_at_borders)
    config = replace(config, data=data)
    parts = elsewhere(config, "parts")
    parts = replace(parts, training=replace(parts.training, batch_size=1, accumulation=6))
    for each in (config, parts):
        train(each)
    assert losses(parts.run.folder) == pytest.approx(losses(config.run.folder), rel=1e-5)


def test_with_reset_at_borders_the_validation_loss_is_that_of_each_document_alone(
    tmp_path: Path, make_config: MakeConfig, data: Path
) -> None:
    config = make_config(max_steps=1, context=15_000, batch_size=1, validation_tokens=10**6)
    config = replace(config, data=replace(config.data, reset_at_borders=True))
    train(config)
    model = checkpoints.load(config.run.folder / "model.safetensors").model
    store = open_split(data, "validation")
    assert store.documents > 1
    assert store.tokens <= 15_000
    total, count = 0.0, 0
    for index in range(store.documents):
        document = torch.from_numpy(store.document(index).astype(np.int64))
        with torch.no_grad():
            logits, _ = model(document[None, :-1])
        total += float(F.cross_entropy(logits[0].double(), document[1:], reduction="sum"))
        count += document.numel() - 1
    assert losses(config.run.folder, "validation")[-1] == pytest.approx(total / count, rel=1e-5)
