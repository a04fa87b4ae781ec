"""Weights in parts are the same weights; the index leads nowhere but to the parts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import huggingface
from receptance.checkpoints.contents import Weight, weights
from receptance.checkpoints.huggingface import sharded
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError
from tests.checkpoints.files import assert_same_weights, random_model, random_tokens
from tests.models.examples import EXAMPLES, example

LIMIT = 6_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of transformers whose weights are in parts."""
    huggingface.write(tmp_path / "hf", from_module(random_model()), max_part_bytes=LIMIT)
    return tmp_path / "hf"


def index_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.safetensors.index.json").read_text())
    return found


def change_index(folder: Path, weight_map: Any) -> None:
    content = {**index_of(folder), "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_a_limit_splits_the_weights_and_the_index_finds_them_again(folder: Path) -> None:
    index, tensors = index_of(folder), random_model().state_dict()
    parts = sorted(set(index["weight_map"].values()))
    assert parts == [f"model-{n:05}-of-{len(parts):05}.safetensors" for n in range(1, len(parts) + 1)]
    assert len(parts) > 3
    assert not (folder / "model.safetensors").exists()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    for name, part in index["weight_map"].items():
        assert name in load_file(folder / part)
    for part in parts:
        inside = load_file(folder / part)
        assert len(inside) == 1 or sum(tensor.nbytes for tensor in inside.values()) <= LIMIT
    checkpoint = checkpoints.load(folder)
    assert checkpoint.files == tuple(folder / part for part in parts)
    assert_same_weights(checkpoint.model, random_model())


def test_transformers_reads_the_parts(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        transformers.utils.logging.disable_progress_bar()
        theirs, report = transformers.RwkvForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = random_tokens(random_model(), 20)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(tokens).logits, random_model()(tokens)[0], atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 300))
def test_every_weight_is_in_one_part_and_is_read_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    tensors = {str(number): torch.randn(length) for number, length in enumerate(lengths)}
    seen: list[str] = []

    def watched(name: str, tensor: Tensor) -> Weight:
        def read() -> Tensor:
            seen.append(name)
            return tensor

        return Weight(tuple(tensor.shape), tensor.dtype, read)

    named = {name: watched(name, tensor) for name, tensor in tensors.items()}
    sharded.write(folder, named, limit)
    assert sorted(seen) == sorted(tensors)
    found, files = sharded.read(folder)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert (len(files) == 1) == (total <= limit or len(tensors) == 1)


@pytest.mark.parametrize("generation", EXAMPLES)
def test_parts_with_official_names_need_no_config(tmp_path: Path, generation: str) -> None:
    model = example(generation, torch.float32)
    named = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    sharded.write(tmp_path, weights(named), 3_000)
    checkpoint = checkpoints.load(tmp_path)
    assert (checkpoint.path, checkpoint.format) == (tmp_path, "sharded safetensors")
    assert len(checkpoint.files) > 3
    assert_same_weights(checkpoint.model, model)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is neither model\.safetensors nor"):
        checkpoints.load(tmp_path)


def test_errors_name_the_tensors_of_a_part_as_it_does(tmp_path: Path) -> None:
    named = {f"module.{name}": tensor for name, tensor in random_model().state_dict().items()}
    del named["module.blocks.1.att.key.weight"]
    sharded.write(tmp_path, weights(named), LIMIT)
    with pytest.raises(CheckpointError, match=r"'module\.blocks\.1\.att\.key\.weight' is missing"):
        checkpoints.load(tmp_path)


def test_a_part_leads_to_the_folder_that_it_is_from(folder: Path) -> None:
    for part in sorted(folder.glob("model-*")):
        if "head.weight" not in load_file(part) or len(load_file(part)) > 1:
            assert_same_weights(checkpoints.load(part).model, random_model())


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\\b",
        "nul\0",
        "a/b",
        "a\nb",
        ".hidden",
        "x" * 5000,
    ],
)
def test_an_index_names_only_files_of_its_own_folder(folder: Path, name: str) -> None:
    change_index(folder, index_of(folder)["weight_map"] | {"head.weight": name})
    with pytest.raises(CheckpointError, match="is not the name of a file in this folder"):
        checkpoints.load(folder)


@pytest.mark.parametrize("places", [None, 3, [], "x", {"a": 3}, {"a": None}])
def test_an_index_without_a_map_is_refused(folder: Path, places: Any) -> None:
    change_index(folder, places)
    with pytest.raises(CheckpointError, match="'weight_map' must"):
        checkpoints.load(folder)


def test_a_part_that_is_not_there_is_missed(folder: Path) -> None:
    change_index(folder, index_of(folder)["weight_map"] | {"head.weight": "absent.safetensors"})
    with pytest.raises(CheckpointError, match=r"'absent\.safetensors' is listed, but it is not there"):
        checkpoints.load(folder)


def test_a_tensor_that_no_part_holds_is_missed(folder: Path) -> None:
    places: Mapping[str, str] = index_of(folder)["weight_map"]
    change_index(folder, {**places, "one.more": places["head.weight"]})
    with pytest.raises(CheckpointError, match=r"'one\.more' is listed, but no part holds it"):
        checkpoints.load(folder)


def test_a_tensor_in_two_parts_is_refused(folder: Path) -> None:
    one, other = sorted(folder.glob("model-*"))[:2]
    save_file(load_file(one) | load_file(other), other, {"format": "pt"})
    with pytest.raises(CheckpointError, match="is in another part too"):
        checkpoints.load(folder)
