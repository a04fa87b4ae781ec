"""Folders of PEFT: what it trains we merge alike, and what we write it loads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import Tuning
from receptance.checkpoints.tuning import parts
from receptance.checkpoints.tuning.parts import convert
from receptance.errors import CheckpointError, ConfigError
from receptance.models import AnyModel
from tests.checkpoints.files import random_model, random_tokens
from tests.checkpoints.tuning.adapters import (
    ALPHA,
    RANK,
    linears,
    model_file,
    random_lora,
    random_miss,
    saved,
)
from tests.models.examples import example


def folder(
    path: Path, tensors: dict[str, Tensor], prefix: str = "base_model.model.", **config: object
) -> Path:
    """A folder with a LoRA as PEFT writes it; a setting that is None is left out."""
    path.mkdir(exist_ok=True)
    save_file(
        {f"{prefix}{name}.weight": tensor for name, tensor in tensors.items()},
        path / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_rslora": False, **config}
    present = {name: value for name, value in settings.items() if value is not None}
    (path / "adapter_config.json").write_text(json.dumps(present))
    return path


def merged(model: Path, adapter: Path, **tuning: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoints.load(
        model, tuning=Tuning(lora=adapter, **tuning)
    ).model.state_dict()
    return state


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("generation", ["4", "6", "7"])
def test_a_folder_says_what_a_file_of_rwkv_peft_and_its_alpha_say(tmp_path: Path, generation: str) -> None:
    model = example(generation, torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    plain = merged(path, saved(tmp_path / "adapter.pth", random_lora(model)), lora_alpha=ALPHA)
    written = folder(tmp_path / "peft", random_lora(model))
    assert_same(merged(path, written), plain)
    assert_same(merged(path, written / "adapter_model.safetensors"), plain)
    twice = merged(path, saved(tmp_path / "adapter.pth", random_lora(model)), lora_alpha=ALPHA * RANK**0.5)
    rank_stabilised = merged(path, folder(tmp_path / "peft", random_lora(model), use_rslora=True))
    for name, tensor in twice.items():
        torch.testing.assert_close(rank_stabilised[name], tensor)


def test_an_adapter_of_a_model_of_transformers_is_for_the_same_weights(tmp_path: Path) -> None:
    model = random_model()
    path = model_file(tmp_path / "model.safetensors", model)
    words = {"blocks": "rwkv.blocks", "att": "attention", "ffn": "feed_forward"}
    tensors = {
        ".".join(words.get(word, word) for word in name.split(".")): tensor
        for name, tensor in random_lora(model).items()
    }
    assert any(name.startswith("rwkv.blocks.2.feed_forward.key.lora_A") for name in tensors)
    plain = saved(tmp_path / "adapter.pth", random_lora(model))
    assert_same(merged(path, folder(tmp_path / "peft", tensors)), merged(path, plain, lora_alpha=ALPHA))


def test_an_adapter_of_a_model_of_fla_is_for_the_same_weights(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    rename = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    ours = {name: tensor for name, tensor in random_lora(model).items() if ".att." in name}
    theirs = {}
    for name, tensor in ours.items():
        _, layer, _, module, part = name.split(".")
        theirs[f"model.layers.{layer}.attn.{rename[module]}.{part}"] = tensor
    plain = saved(tmp_path / "adapter.pth", ours)
    assert_same(merged(path, folder(tmp_path / "peft", theirs)), merged(path, plain, lora_alpha=ALPHA))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', but receptance merges LORA and MISS"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is 'True', which receptance cannot merge"),
        ({"alpha_pattern": {"key": 3}}, "alpha_pattern is"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights is 'pissa_niter_4', so the frozen weights",
        ),
        ({"lora_alpha": "many"}, "lora_alpha is 'many', but it must be a number"),
        ({"lora_alpha": None}, "lora_alpha is None"),
    ],
)
def test_a_setting_that_changes_the_function_is_refused_by_name(
    tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    model = example("7", torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {says}"):
        merged(path, folder(tmp_path / "peft", random_lora(model), **settings))


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    path = model_file(tmp_path / "model.safetensors", model)
    written = folder(tmp_path / "peft", random_lora(model))
    (written / "adapter_config.json").rename(tmp_path / "kept.json")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: there is no such file"):
        merged(path, written / "adapter_model.safetensors")
    (tmp_path / "kept.json").rename(written / "adapter_config.json")
    (written / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"there is none of adapter_model\.safetensors"):
        merged(path, written)
    for wrong in ("[]", "{", "nonsense"):
        (written / "adapter_config.json").write_text(wrong)
        with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
            merged(path, written)


def test_ranks_that_differ_are_written_down(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    tensors = random_lora(model) | {
        "head.lora_A": torch.randn(2, 16),
        "head.lora_B": torch.randn(29, 2),
    }
    convert(saved(tmp_path / "adapter.pth", tensors), tmp_path / "peft", lora_alpha=8)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]["head"]) == (RANK, 8, 2)
    assert set(config["target_modules"]) == set(linears(model))
    names = load_file(tmp_path / "peft" / "adapter_model.safetensors").keys()
    assert names == {f"base_model.model.{name}.weight" for name in tensors}


def test_what_peft_has_no_place_for_is_not_written(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    whole = saved(tmp_path / "whole.pth", random_lora(model) | {"blocks.0.ln1.bias": torch.zeros(16)})
    miss = saved(tmp_path / "miss.pth", random_miss(model))
    unknown = saved(tmp_path / "unknown.pth", random_lora(model))
    for file, alpha, says in (
        (whole, 8, r"has no place for 'blocks\.0\.ln1\.bias'"),
        (miss, None, r"has no place for '.*\.disha'"),
        (unknown, None, r"unknown\.pth|lora_alpha"),
    ):
        with pytest.raises(ConfigError, match=says):
            convert(file, tmp_path / "peft", lora_alpha=alpha)
        assert not (tmp_path / "peft").exists()


@pytest.fixture(scope="module")
def peft() -> Any:
    """The library itself, where it is installed, without the warnings of its imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("peft")


def trained(peft: Any, model: AnyModel, config: Any) -> Any:
    """Wrap a model, and change what would be trained."""
    wrapped = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "miss_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return wrapped


@pytest.mark.parametrize("generation", ["4", "5.2", "6", "7"])
@pytest.mark.parametrize("kind", ["LoRA", "rsLoRA", "MiSS"])
def test_what_it_trains_we_merge_alike(tmp_path: Path, peft: Any, generation: str, kind: str) -> None:
    model = example(generation, torch.float32)
    path, tokens = model_file(tmp_path / "model.safetensors", model), random_tokens(model, 20)
    targets = list(linears(model))
    if kind == "MiSS":
        config = peft.MissConfig(r=5, target_modules=targets)
    else:
        config = peft.LoraConfig(r=4, lora_alpha=10, use_rslora=kind == "rsLoRA", target_modules=targets)
    wrapped = trained(peft, model, config)
    wrapped.save_pretrained(tmp_path / "peft")
    ours = checkpoints.load(path, tuning=Tuning(lora=tmp_path / "peft")).model
    with torch.no_grad():
        expected = wrapped(tokens)[0]
        plain = checkpoints.load(path).model(tokens)[0]
        found = ours(tokens)[0]
    assert float((expected - plain).abs().max()) > 0.1
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_it_loads_what_we_write(tmp_path: Path, peft: Any) -> None:
    model = example("7", torch.float32)
    path, tokens = model_file(tmp_path / "model.safetensors", model), random_tokens(model, 20)
    adapter = saved(tmp_path / "adapter.pth", random_lora(model))
    convert(adapter, tmp_path / "peft", lora_alpha=ALPHA)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "peft")
    ours = checkpoints.load(path, tuning=Tuning(lora=adapter, lora_alpha=ALPHA)).model
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens)[0], ours(tokens)[0], rtol=1e-5, atol=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    before, after = parts.read(tmp_path / "peft"), parts.read(tmp_path / "again")
    assert before is not None
    assert after is not None
    assert_same(*({name: w.read() for name, w in part.weights.items()} for part in (before, after)))
