"""Several processes train what one does: the same losses and weights, of the same samples, in one folder."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from receptance.errors import ConfigError, DivergenceError
from receptance.training import Config, GuardConfig, World, save_config, train
from receptance.training.metrics import Record, read_metrics
from receptance.training.run_folder import RunFolder
from receptance.training.snapshot import Snapshot, load_snapshot
from tests.training.conftest import MakeConfig

TIMES = ("seconds", "tokens_per_second")
ROOT = Path(__file__).resolve().parents[2]
# Where a gradient is next to nothing, Adam makes a step of its rounding errors, unless epsilon is large.
CALM = {"epsilon": 1e-4, "learning_rate": 2e-3}


def environment(**more: str) -> dict[str, str]:
    """Return that of a process which imports this checkout and talks to none but this machine."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | more


class Ranks:
    """Processes that wait for orders, all of them for the same."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def train(self, config: Config, *, resume: bool = False, **order: object) -> list[dict[str, Any]]:
        """Have a run trained, and return what each process says of it."""
        recipe = config.run.folder.with_name(f"{config.run.folder.name}.toml")
        save_config(config, recipe)
        return self.order(recipe=str(recipe), resume=resume, **order)

    def order(self, **order: object) -> list[dict[str, Any]]:
        """Give an order, and return what each process answers."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self._processes if process.stdout]


@contextmanager
def ranks(count: int) -> Iterator[Ranks]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        processes = []
        for rank in range(count):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            variables = {name: str(value) for name, value in place.items()}
            variables |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.training.rank"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(**variables),
            )
            processes.append(stack.enter_context(process))
        yield Ranks(processes)


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with ranks(2) as pair:
        yield pair


def elsewhere(config: Config, name: str) -> Config:
    return replace(config, run=replace(config.run, folder=config.run.folder.with_name(name)))


def longer(config: Config, steps: int) -> Config:
    return replace(config, training=replace(config.training, max_steps=steps))


def log(config: Config) -> list[Record]:
    """Return what a run logged, but for what the clock decides."""
    records = read_metrics(config.run.folder / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def assert_close_records(one: Record, other: Record) -> None:
    assert one.pop("kind") == other.pop("kind")
    assert one == pytest.approx(other, rel=1e-5)


def newest(config: Config) -> Snapshot:
    snapshots = RunFolder(config.run.folder).snapshots
    return load_snapshot(snapshots.path(snapshots.steps()[-1]))


def files(config: Config) -> set[str]:
    folder = config.run.folder
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_equal_but_for_rounding(config: Config, other: Config) -> None:
    for one, two in zip(log(config), log(other), strict=True):
        assert_close_records(one, two)
    first, second = newest(config).tensors, newest(other).tensors
    weights = [name for name in first if name.startswith("master.")]
    assert weights
    for name in weights:
        assert_close(second[name], first[name], rtol=0, atol=1e-5)


SHARES: dict[str, dict[str, object]] = {
    "a batch in halves": {},
    "batches that do not come out even": {"batch_size": 2, "accumulation": 3},
    "documents of unlike length": {"reset_at_borders": True, "batch_size": 5},
    "penalties": {"max_logit_weight": 1e-2, "z_loss_weight": 1e-3, "gradient_clip": 0.1},
}


@pytest.mark.parametrize("share", SHARES)
def test_two_processes_train_as_one_does(two: Ranks, make_config: MakeConfig, share: str) -> None:
    config = make_config(validate_every=3, **CALM, **SHARES[share])
    together = elsewhere(config, "together")
    alone = train(config)
    answers = two.train(together)
    assert answers[0] == answers[1]  # the optimizers too, to the bit
    assert answers[0]["step"] == 6
    assert alone.validation is not None
    assert answers[0]["validation"] == pytest.approx(alone.validation.loss, rel=1e-5)
    assert_equal_but_for_rounding(config, together)
    assert files(together) == files(config)


@pytest.mark.slow
def test_four_processes_train_as_one_does(make_config: MakeConfig) -> None:
    config = make_config(batch_size=3, accumulation=2, validate_every=3, **CALM)  # shares of 1, 2, 1 and 2
    together = elsewhere(config, "together")
    train(config)
    with ranks(4) as four:
        answers = four.train(together)
    assert all(answer == answers[0] for answer in answers)
    assert_equal_but_for_rounding(config, together)


@pytest.mark.parametrize("generation", ["4", "7"])
def test_where_each_process_reads_a_whole_batch_nothing_differs_at_all(
    two: Ranks, make_config: MakeConfig, generation: str
) -> None:
    sizes = {} if generation == "4" else {"hidden_size": 64, "head_size": 32}
    config = make_config(generation=generation, accumulation=2, dtype="bfloat16", dropout=0.2, **sizes)
    together = elsewhere(config, "together")
    train(config)
    two.train(together)
    assert log(together)[:-1] == log(config)[:-1]  # the last record is the validation: a sum in another order
    first, second = newest(config).tensors, newest(together).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_process_that_is_told_to_stop_stops_both_and_they_go_on_to_the_bit(
    two: Ranks, make_config: MakeConfig, record_property: Callable[[str, object], None]
) -> None:
    config = make_config(accumulation=2, dtype="bfloat16", ema_decay=0.9)
    stopped = elsewhere(config, "stopped")
    whole = two.train(config)
    for rank in (0, 1):
        answers = two.train(stopped, stop=[rank, 2 + rank], resume=bool(rank))
        assert [(answer["step"], answer["interrupted"]) for answer in answers] == [(2 + rank, True)] * 2
    assert two.train(stopped, resume=True) == whole
    assert log(stopped) == log(config)
    first, second = newest(config).tensors, newest(stopped).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)
    record_property("figure", "T8 2 processes, stopped twice: log and optimizer to the bit")


def test_a_snapshot_of_two_processes_goes_on_in_one_and_back_in_two(
    two: Ranks, make_config: MakeConfig, record_property: Callable[[str, object], None]
) -> None:
    config = make_config(plateau=1.0, **CALM)
    moved = elsewhere(config, "moved")
    train(config)
    two.train(longer(moved, 2))
    train(longer(moved, 4), resume=True)
    two.train(moved, resume=True)
    steps = [[record for record in log(one) if record["kind"] == "training"] for one in (config, moved)]
    for one, other in zip(*steps, strict=True):
        assert_close_records(one, other)
    furthest = max(abs(other["loss"] / one["loss"] - 1) for one, other in zip(*steps, strict=True))
    record_property("figure", f"T8 2 → 1 → 2 processes: losses within {furthest:.0e} of those of one")
    for name, tensor in newest(config).tensors.items():
        assert_close(newest(moved).tensors[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_bad_step_of_one_process_is_that_of_both(two: Ranks, make_config: MakeConfig, policy: str) -> None:
    guard = GuardConfig(policy=policy, skips=int(policy == "skip"))
    config = replace(make_config(save_every=1), guard=guard)
    answers = two.train(config, spoil=[1, 3])
    assert answers[0] == answers[1]
    assert answers[0]["step"] == 6
    kinds = {record["step"]: record["kind"] for record in log(config) if record["kind"] != "validation"}
    assert kinds == {1: "training", 2: "training", 3: policy, 4: "training", 5: "training", 6: "training"}
    assert all(tensor.isfinite().all() for tensor in newest(config).tensors.values())


def test_an_error_in_one_process_is_raised_in_both(two: Ranks, make_config: MakeConfig) -> None:
    config = make_config()
    answers = two.train(config, spoil=[1, 3])
    assert answers[0] == answers[1]
    assert answers[0]["error"].startswith("DivergenceError: ")
    assert "step 3: the loss is nan" in answers[0]["error"]
    used = two.train(config)  # only the first process looks for that
    assert used[0] == used[1]
    assert "already holds a run" in used[0]["error"]


def test_two_processes_refuse_a_step_of_one_sample_before_anything_is_written(
    two: Ranks, make_config: MakeConfig
) -> None:
    config = make_config(batch_size=1)
    answers = two.train(config)
    assert answers[0] == answers[1]
    assert "1 samples a step, but 2 processes" in answers[0]["error"]
    assert not config.run.folder.exists()


def test_a_process_alone_waits_for_nobody() -> None:
    world = World()
    tensors = [torch.ones(3)]
    world.add_up(tensors)
    assert tensors[0].tolist() == [1.0] * 3
    assert world.sum(1.5, 2.0) == [1.5, 2.0]
    assert (world.any(False), world.any(True), world.first(3.0)) == (False, True, 3.0)
    assert world.in_turn(lambda: "done") == "done"
    with pytest.raises(DivergenceError, match="bad"), world.together():
        raise DivergenceError("bad")


@pytest.mark.parametrize(("name", "found"), [("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_a_process_alone_takes_the_device_of_the_recipe(name: str, found: str) -> None:
    assert World().device(name) == torch.device(found)


def test_several_processes_cannot_share_a_gpu() -> None:
    world = World(rank=5, size=8, local_rank=torch.cuda.device_count())
    assert world.device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="each on a GPU of its own"):
        world.device("cuda:0")
    with pytest.raises(ConfigError, match="has no GPU"):
        world.device("cuda")


def torchrun(*arguments: object, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Start two processes of the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
        + [str(argument) for argument in arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_command_prints_once_whatever_torchrun_starts(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config(max_steps=2, batch_size=2)
    save_config(config, tmp_path / "recipe.toml")
    command = tmp_path / "command.py"
    command.write_text("import sys\nfrom receptance.cli.main import main\nsys.exit(main(sys.argv[1:]))\n")
    ended = torchrun(command, "train", tmp_path / "recipe.toml", "--run.tune_allocator=false")
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall("Finished after 2 steps", ended.stdout)) == 1
    assert ended.stdout.count("Training in") == 1
    assert [record["step"] for record in log(config)] == [1, 2, 2]


DIES_ONCE = """
import os, signal, sys
from receptance.training import joined_world, load_config, train
with joined_world() as world:
    def report(progress):
        if world.rank == 1 and progress.step == 4 and not world.is_restarted:
            os.kill(os.getpid(), signal.SIGKILL)
    train(load_config(sys.argv[1]), world=world, report=report)
"""


@pytest.mark.slow
def test_torchrun_starts_killed_processes_again_and_they_end_as_if_never_killed(
    tmp_path: Path, two: Ranks, make_config: MakeConfig
) -> None:
    config = make_config(save_every=3)
    killed = elsewhere(config, "killed")
    two.train(config)
    save_config(killed, tmp_path / "recipe.toml")
    (tmp_path / "dies.py").write_text(DIES_ONCE)
    ended = torchrun(tmp_path / "dies.py", tmp_path / "recipe.toml", options=["--max-restarts=1"])
    assert ended.returncode == 0, ended.stderr
    assert "cannot go on. What that wrote says why" in ended.stderr  # the one that was left
    assert log(killed) == log(config)
    first, second = newest(config).tensors, newest(killed).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)
