"""A file is written whole, with nothing in it that a reader would refuse."""

from __future__ import annotations

import errno
import math
import os
import stat
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints.writers import FormatName
from receptance.errors import CheckpointError, ConfigError
from tests.checkpoints.files import assert_same_weights, random_model

FORMATS: tuple[FormatName, ...] = ("receptance", "pth", "transformers")


def test_tokenizer_and_metadata_come_back(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a", tokenizer="world", metadata={"step": "7", "ü": "\n"})
    checkpoint = checkpoints.load(tmp_path / "a")
    assert (checkpoint.tokenizer, checkpoint.metadata) == ("world", {"step": "7", "ü": "\n"})


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_full_disk_leaves_the_file_of_before_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_name: FormatName
) -> None:
    path = tmp_path / "model"
    if format_name != "transformers":
        checkpoints.save(random_model(), path, format=format_name)
    before = sorted(tmp_path.iterdir())

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(random_model(seed=1), path, format=format_name)
    assert sorted(tmp_path.iterdir()) == before
    if format_name != "transformers":
        assert_same_weights(checkpoints.load(path).model, random_model())


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_with_a_value_that_is_not_finite_is_not_written(
    tmp_path: Path, format_name: FormatName, value: float
) -> None:
    model = random_model()
    with torch.no_grad():
        model.get_parameter("blocks.1.att.time_first")[3] = value
    with pytest.raises(CheckpointError, match=r"'blocks\.1\.att\.time_first' holds (nan|inf) at \[3\]"):
        checkpoints.save(model, tmp_path / "model", format=format_name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_name", FORMATS)
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, format_name: FormatName) -> None:
    before = os.umask(0o022)
    try:
        checkpoints.save(random_model(), tmp_path / "model", format=format_name)
    finally:
        os.umask(before)
    for file in checkpoints.load(tmp_path / "model").files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_format_that_cannot_hold_the_config_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot say that layer_norm_epsilon is 1e-06; .*would use 1e-05"):
        checkpoints.save(random_model(layer_norm_epsilon=1e-6), tmp_path / "a.pth", format="pth")
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_model_is_saved_under_the_official_names(tmp_path: Path) -> None:
    model = random_model()
    checkpoints.save(torch.compile(model), tmp_path / "a")  # type: ignore[arg-type]  # it stands in for the model
    assert_same_weights(checkpoints.load(tmp_path / "a").model, model)


def test_saving_over_the_file_that_a_model_is_mapped_from_keeps_both(tmp_path: Path) -> None:
    checkpoints.save(random_model(), tmp_path / "a")
    model = checkpoints.load(tmp_path / "a").model
    with torch.no_grad():
        model.head.weight.mul_(2)
    checkpoints.save(model, tmp_path / "a")
    assert torch.equal(model.head.weight, 2 * random_model().head.weight)
    assert_same_weights(checkpoints.load(tmp_path / "a").model, model)


def test_saving_changes_nothing_in_the_model(tmp_path: Path) -> None:
    model = random_model().train()
    for format_name in FORMATS:
        checkpoints.save(model, tmp_path / format_name, format=format_name)
    assert model.training
    assert_same_weights(model, random_model())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_format_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="format is 'onnx', but it must be one of receptance, pth, transformers"
    ):
        checkpoints.save(random_model(), tmp_path / "a", format="onnx")  # type: ignore[arg-type]  # the error
