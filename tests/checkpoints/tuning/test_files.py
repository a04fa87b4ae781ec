"""What lies on top of a model goes where the model goes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from receptance import checkpoints
from receptance.checkpoints import Tuning
from receptance.errors import CheckpointError, ConfigError
from tests.checkpoints.files import assert_same_weights
from tests.checkpoints.tuning.adapters import ALPHA, linears, model_file, random_lora, saved
from tests.checkpoints.tuning.test_tuned_state import random_state
from tests.models.examples import example


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_converted_model_holds_what_a_load_would_merge(
    tmp_path: Path, name: str, dtype: torch.dtype | None
) -> None:
    model = example("6", torch.float32)
    source = model_file(tmp_path / "model.safetensors", model)
    adapter, state = saved(tmp_path / "adapter.pth", random_lora(model)), random_state(model)
    checkpoints.save_state(state, model.config, tmp_path / "state.pth")
    tuning = Tuning(lora=adapter, lora_alpha=ALPHA, state=tmp_path / "state.pth")
    result = checkpoints.convert(source, tmp_path / name, dtype=dtype, tuning=tuning)
    converted = checkpoints.load(tmp_path / name)
    assert_same_weights(converted.model, checkpoints.load(source, dtype=dtype, tuning=tuning).model)
    assert not torch.equal(converted.model.head.weight, model.head.weight.to(converted.model.dtype))
    assert converted.initial_state is not None
    assert torch.equal(converted.initial_state.wkv, state.wkv)
    assert result.largest_difference <= (1e-6 if dtype is None else 1.0)
    files = (source, adapter, tmp_path / "state.pth")
    assert result.source_sha256 == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_state_goes_along_or_is_left_out(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    checkpoints.save(model, tmp_path / "a.pth", format="pth", state=random_state(model))
    checkpoints.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    checkpoints.convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    assert (tmp_path / "c.pth").read_bytes() == (tmp_path / "a.pth").read_bytes()
    without = checkpoints.convert(tmp_path / "a.pth", tmp_path / "d.pth", tuning=Tuning(state="zero"))
    assert not without.destination.tuned_state
    with pytest.raises(CheckpointError, match=r"a\.pth carries a tuned initial state, and .*d\.pth has none"):
        checkpoints.compare(*(checkpoints.open_model(tmp_path / f"{name}.pth") for name in "ad"))


def test_a_state_given_goes_before_that_of_the_model(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    first, second = random_state(model, seed=1), random_state(model, seed=2)
    checkpoints.save(model, tmp_path / "model.pth", format="pth", state=first)
    checkpoints.save_state(second, model.config, tmp_path / "state.pth")
    loaded = checkpoints.load(tmp_path / "model.pth", tuning=Tuning(state=tmp_path / "state.pth"))
    assert loaded.initial_state is not None
    assert torch.equal(loaded.initial_state.wkv, second.wkv)


def test_two_models_with_other_states_are_not_the_same(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    for seed, name in enumerate("ab"):
        checkpoints.save(model, tmp_path / f"{name}.pth", format="pth", state=random_state(model, seed=seed))
    found = checkpoints.compare(*(checkpoints.open_model(tmp_path / f"{name}.pth") for name in "ab"))
    assert set(found.unequal) == {f"blocks.{layer}.att.time_state" for layer in range(3)}
    assert found.logits > 0.1


def test_pissa_goes_through_its_files(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    source = model_file(tmp_path / "model.safetensors", model)
    learnt, began = random_lora(model, seed=1), random_lora(model, seed=2)
    start = {f"model.{name.replace('lora', 'init_lora')}": tensor for name, tensor in began.items()}
    tuning = Tuning(lora=saved(tmp_path / "a.pth", learnt), pissa_init=saved(tmp_path / "init.pth", start))
    merged = checkpoints.load(source, tuning=tuning).model.state_dict()
    for name, linear in linears(model).items():
        expected = linear.weight + sum(
            sign * part[f"{name}.lora_B"] @ part[f"{name}.lora_A"]
            for sign, part in ((1, learnt), (-1, began))
        )
        torch.testing.assert_close(merged[f"{name}.weight"], expected)


@pytest.mark.parametrize("setting", [{"lora_alpha": 3.0}, {"pissa_init": "init.pth"}])
def test_what_belongs_to_an_adapter_is_refused_without_one(setting: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError, match="but no lora that it could belong to"):
        Tuning(**setting)  # type: ignore[arg-type] # either field
