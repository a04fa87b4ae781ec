from __future__ import annotations

import pytest
import torch

from receptance.training import plan, train
from receptance.training.session import checked_sizes, on_paper, opened_corpus
from receptance.training.step_memory import least_memory
from receptance.training.timetable import Timetable
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
def test_what_torch_allocates_is_what_was_counted_and_more_than_the_least(
    make_config: MakeConfig, generation: str, keys: dict[str, object]
) -> None:
    sizes = {"generation": generation, "num_layers": 2, "hidden_size": 64, "vocabulary_size": 1024}
    config = make_config(**sizes, context=128, batch_size=4, max_steps=2, **keys)
    found = plan(config, flops=1.0).stages[0].memory.tensors
    paper = on_paper(config, checked_sizes(config.model, opened_corpus(config)))
    least = least_memory(config, Timetable(config).stages[0], paper, teams=1)
    taken = peak_of_the_allocator(config)
    print(f"RWKV-{generation} {keys}: planned {found / 1e6:.1f} MB, allocated {taken / 1e6:.1f} MB")
    assert found == pytest.approx(taken, rel=0.1)
    assert taken / 10 < least.tensors < taken


def test_processes_that_keep_a_part_each_of_the_matrices_need_less(make_config: MakeConfig) -> None:
    config = make_config(num_layers=2, hidden_size=64, batch_size=2)
    model, (stage,) = (
        on_paper(config, checked_sizes(config.model, opened_corpus(config))),
        Timetable(config).stages,
    )
    whole, quarter = (least_memory(config, stage, model, teams=1, shards=count) for count in (1, 4))
    matrices = 2 * 256 * 64 + 2 * 13 * 64 * 64
    assert whole.weights == 4 * model.num_parameters
    assert whole.weights - quarter.weights == 4 * matrices * 3 // 4
    assert whole.moments - quarter.moments == 8 * matrices * 3 // 4
