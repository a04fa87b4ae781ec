from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from receptance.errors import ConfigError
from receptance.training import Progress, TrackingConfig, resume_config, train
from receptance.training.metrics import read_metrics
from tests.training.conftest import MakeConfig


@pytest.mark.filterwarnings("ignore")  # of the reader
def test_tensorboard_reads_the_numbers_of_the_log_also_after_going_on(make_config: MakeConfig) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = replace(make_config(validate_every=2, max_steps=4), tracking=TrackingConfig(tensorboard=True))
    train(config)
    more = resume_config(config.run.folder, ["--training.max_steps=6"])
    train(more, resume=True)
    found = accumulators.EventAccumulator(str(config.run.folder / "tensorboard")).Reload()
    records = read_metrics(config.run.folder / "metrics.jsonl")
    for kind, names in {
        "training": ("loss", "bits_per_byte", "learning_rate", "gradient_norm", "tokens_per_second"),
        "validation": ("loss", "bits_per_byte"),
    }.items():
        for name in names:
            expected = [(record["step"], record[name]) for record in records if record["kind"] == kind]
            events = [(event.step, event.value) for event in found.Scalars(f"{kind}/{name}")]
            assert [step for step, _ in events] == [step for step, _ in expected]
            assert [value for _, value in events] == pytest.approx([value for _, value in expected], rel=1e-6)


class Recorder:
    """Stands for the package wandb: remembers what it is told."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **options: Any) -> Recorder:
        self.options.append(options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_every_record_and_one_name_for_all_sessions(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    tracking = TrackingConfig(wandb="offline", project="tales")
    config = replace(make_config(max_steps=2), tracking=tracking)
    train(config)
    train(resume_config(config.run.folder, ["--training.max_steps=3"]), resume=True)
    first, second = recorder.options
    assert (first["project"], first["mode"], first["name"]) == ("tales", "offline", "run")
    assert first["id"] == second["id"]
    assert first["config"]["model"]["num_layers"] == 2
    assert recorder.finished == 2
    records = read_metrics(config.run.folder / "metrics.jsonl")
    assert [step for step, _ in recorder.logged if step == 3] == [
        record["step"] for record in records if record["step"] == 3
    ]
    assert recorder.logged[0] == (1, {f"training/{name}": records[0][name] for name in NUMBERS})


def test_steps_that_are_done_again_are_not_sent_again_however_often_the_run_was_killed(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    tracking = TrackingConfig(wandb="offline")
    config = replace(make_config(max_steps=9, save_share=0.0, save_every=3), tracking=tracking)

    class Killed(BaseException):
        pass

    def killed_at(step: int) -> Callable[[Progress], None]:
        def report(progress: Progress) -> None:
            if progress.step == step:
                raise Killed

        return report

    for number, step in enumerate((2, 1, 8, 7)):  # before the first snapshot, and after that at step 6
        with pytest.raises(Killed):
            train(config, resume=number > 0, report=killed_at(step))
    train(config, resume=True)
    assert [step for step, values in recorder.logged if "training/loss" in values] == [*range(1, 10)]


NUMBERS = ("seconds", "loss", "bits_per_byte", "learning_rate", "gradient_norm", "tokens_per_second", "flops")


@pytest.mark.parametrize(
    ("tracking", "package"),
    [({"tensorboard": True}, "tensorboard"), ({"wandb": "offline"}, "wandb")],
)
def test_a_missing_package_is_named_before_a_step_is_spent(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tracking: dict[str, Any], package: str
) -> None:
    for name in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    config = replace(make_config(), tracking=TrackingConfig(**tracking))
    with pytest.raises(ConfigError, match=rf"pip install 'receptance\[{package}\]'"):
        train(config)
    monkeypatch.undo()
    train(replace(config, tracking=TrackingConfig()))  # the folder is free for another try
