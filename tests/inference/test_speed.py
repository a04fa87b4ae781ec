"""The figures of a model add up; how large they are is nobody's promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receptance import checkpoints, native
from receptance.errors import ConfigError
from receptance.inference import speed
from receptance.inference.speed import Plan, Rate
from receptance.runtimes import NativeModel
from tests.models.examples import EXAMPLES, example

needs_native = pytest.mark.skipif(native.library() is None, reason="needs the native library")
PLAN = Plan(prompt_tokens=5, tokens=2, batches=(1, 3), turns=2)


def ignore(stage: str, done: int, total: int) -> None:
    pass


def saved(folder: Path, generation: str) -> Path:
    checkpoints.save(example(generation, torch.float32), folder / "model.safetensors")
    return folder / "model.safetensors"


@needs_native
@pytest.mark.parametrize("generation", EXAMPLES)
def test_every_generation_is_measured(tmp_path: Path, generation: str) -> None:
    found = speed.measure(ignore, saved(tmp_path, generation), PLAN, dtype="int8")
    assert (found.generation, found.runtime, found.dtype) == (generation[0], "native", "int8")
    assert set(found.prefill) == set(found.decode) == {1, 3}
    assert 0 < found.load_seconds < found.first_token_seconds
    assert found.memory_read is not None
    for rate in (found.memory_read, *found.prefill.values(), *found.decode.values()):
        assert 0 < rate.median <= rate.best


def test_the_torch_module_is_measured_too(tmp_path: Path) -> None:
    found = speed.measure(ignore, saved(tmp_path, "6"), PLAN, dtype=torch.bfloat16, runtime="torch")
    assert (found.runtime, found.dtype, found.level) == ("torch", "bfloat16", None)


def test_without_the_native_library_the_limit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, "4")
    monkeypatch.setattr(native, "_load", lambda: (None, "it is not built"))
    found = speed.measure(ignore, path, PLAN)
    assert (found.runtime, found.memory_read, found.share_of_limit) == ("torch", None, None)


@needs_native
@pytest.mark.parametrize("matrix_format", ["float32", "bfloat16"])
def test_a_token_reads_all_weights_but_the_embedding_of_others(matrix_format: str) -> None:
    """Every weight counted one by one; panels of 16 rows, one of them of the embedding."""
    model = example("4")
    packed = NativeModel.pack(model, matrix_format)  # type: ignore[arg-type]  # a str of the parametrisation
    item = {"float32": 4, "bfloat16": 2}[matrix_format]
    expected = 0
    for name, weight in model.named_parameters():
        if name == "emb.weight":
            expected += 16 * weight.shape[1] * item
        elif model.is_matrix(name, weight.shape):
            expected += -(-weight.shape[0] // 16) * 16 * weight.shape[1] * item
        else:
            expected += weight.numel() * 4
    assert packed.bytes_per_token == expected


def test_the_share_of_the_limit_is_bytes_read_over_bytes_readable(tmp_path: Path) -> None:
    found = speed.measure(ignore, saved(tmp_path, "7"), PLAN, runtime="torch")
    if found.memory_read is not None:
        share = found.decode[1].best * found.bytes_per_token / found.memory_read.best
        assert found.share_of_limit == pytest.approx(share)
    assert found.bytes_per_token == found.weight_bytes - 28 * 16 * 4  # 29 rows of 16 in float32, one is read


def test_a_rate_is_of_the_shortest_time_and_of_the_median() -> None:
    assert Rate.of(6, [3, 1, 2]) == Rate(best=6, median=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": 0}, "turns is 0, but it must be at least 1"),
        ({"tokens": -1}, "tokens is -1"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0"),
        ({"batches": ()}, "numbers of texts"),
        ({"batches": (1, 0)}, r"batches are \(1, 0\)"),
        ({"batches": (1025,)}, "from 1 to 1,024"),
        ({"threads": 0}, "threads is 0, but it must be from 1 to this machine's"),
        ({"threads": 10_000}, "threads is 10000"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(**settings)  # type: ignore[arg-type]  # of each its own type
