"""Files of web-rwkv hold what that project's converter would put into them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from receptance import checkpoints
from receptance.checkpoints import web_rwkv, writers
from receptance.checkpoints.contents import Contents, weights
from receptance.checkpoints.load import open_model
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError, ConfigError
from receptance.models import RWKV7, AnyModel, RWKV7Config
from tests.checkpoints.files import random_model
from tests.models.examples import example
from tests.models.trained import FIRST_TOKENS

GENERATIONS = ("4", "5.2", "6", "7")

# SHA-256 over names, dtypes, shapes and numbers of what the project's `convert_safetensors.py` makes of the
# tiny models as `.pth` files (commit 3c7d546); and how far the logits after three tokens may be off.
CONVERTED = {
    "rwkv-4.0-660K": ("38ff119d5774653b422ce673337a1f5a48f0cf53142be2e510d7bdb2b6982391", 0.01),
    "rwkv-5.2-730K": ("5ca3586d36e3207e2415ff308fec96c353036cba5982839ebb2be6f772d56175", 0.03),
    "rwkv-6.0-3m-dequantQ5_1": ("139fe49d39df88f7a0a36afc3d78fe2ae6ecd3579ba4bb9a229b6fa1da7a8997", 0.09),
    "rwkv-7.0-834K": ("8f6c54979e5a9ec168b5f1db2b7e5e09d697a7e6d934938217235cf4f424ab8e", 0.001),
}


def model_of(generation: str, dtype: torch.dtype = torch.float16) -> AnyModel:
    """Return an example that web-rwkv can run, in values that it can hold."""
    model = random_model() if generation == "4" else example(generation, torch.float32)
    return model.to(dtype).float()


def digest(path: Path) -> str:
    hashed = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.numpy().tobytes())
    return hashed.hexdigest()


@pytest.mark.parametrize("name", CONVERTED)
def test_trained_models_are_written_as_the_projects_converter_does(
    shared: Path, tmp_path: Path, name: str
) -> None:
    source = open_model(shared / "data" / "tiny-models" / f"{name}.safetensors")
    writers.write(tmp_path / "a.st", source, "web-rwkv")
    assert digest(tmp_path / "a.st") == CONVERTED[name][0]
    after = open_model(tmp_path / "a.st")
    assert (after.format, after.config) == ("web-rwkv", source.config)
    for key, weight in source.weights.items():
        assert torch.equal(after.weights[key].read(), weight.read().half()), key


@torch.no_grad()
@pytest.mark.parametrize("name", CONVERTED)
def test_trained_models_compute_nearly_the_same_through_the_format(
    shared: Path, tmp_path: Path, name: str
) -> None:
    folder = shared / "data" / "tiny-models"
    writers.write(tmp_path / "a.st", open_model(folder / f"{name}.safetensors"), "web-rwkv")
    override = {"group_norm_epsilon": 1e-5} if "5.2" in name else {}
    model = checkpoints.load(tmp_path / "a.st", dtype=torch.float32, **override).model
    expected = torch.from_numpy(np.load(folder / f"{name}.expected-logits.npy"))
    logits = model(torch.tensor([FIRST_TOKENS]))[0][0, -1]
    assert float((logits - expected).abs().max()) < CONVERTED[name][1]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", ["a.st", "a.safetensors", "a"])
def test_values_of_float16_come_back_to_the_bit_whatever_the_name(
    tmp_path: Path, generation: str, name: str
) -> None:
    model = model_of(generation)
    checkpoints.save(model, tmp_path / name, format="web-rwkv")
    after = checkpoints.load(tmp_path / name, dtype=torch.float32)
    is_told = generation != "4" or name == "a.st"  # RWKV-4 looks the same in official files
    assert after.format == ("web-rwkv" if is_told else "safetensors")
    for key, tensor in model.state_dict().items():
        assert torch.equal(after.model.state_dict()[key], tensor), key


@pytest.mark.parametrize("generation", ["4", "5.0", "5.1", "5.2", "6", "7"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.st"])
def test_official_safetensors_are_not_taken_for_files_of_web_rwkv(
    tmp_path: Path, generation: str, name: str
) -> None:
    model = example(generation, torch.float32)
    save_file({key: tensor.detach() for key, tensor in model.state_dict().items()}, tmp_path / name)
    after = checkpoints.load(tmp_path / name).model
    for key, tensor in model.state_dict().items():
        assert torch.equal(after.state_dict()[key], tensor), key


@pytest.mark.parametrize(("suffix", "is_theirs"), [(".st", True), (".safetensors", False)])
def test_square_matrices_are_told_by_the_suffix(tmp_path: Path, suffix: str, is_theirs: bool) -> None:
    ranks = dict.fromkeys(("decay_rank", "in_context_rank", "value_rank", "gate_rank"), 16)
    config = RWKV7Config(vocabulary_size=29, num_layers=2, hidden_size=16, head_size=4, **ranks)
    model = RWKV7(config)
    model.initialise(torch.Generator().manual_seed(0))
    official = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    path = (tmp_path / "a").with_suffix(suffix)
    save_file(official, path)
    read = open_model(path).weights["blocks.0.att.w2"].read()
    expected = official["blocks.0.att.w2"]
    assert torch.equal(read, expected.T if is_theirs else expected)
    assert not torch.equal(expected, expected.T)


@given(
    generation=st.sampled_from(["5", "6", "7"]),
    layer=st.integers(0, 99),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
)
def test_every_table_can_be_read_in_both_directions(
    generation: str, layer: int, rows: int, columns: int
) -> None:
    layout = web_rwkv.LAYOUTS[generation]
    tensors = {
        row.officials[0].replace("{}", str(layer)): torch.randn(5, rows, columns) for row in layout.rows
    }
    foreign = layout.to_foreign(weights(tensors))
    assert len(foreign) == len(tensors)
    back = layout.to_official(Path("file"), foreign)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(weight.read(), tensors[name]) for name, weight in back.items())


def test_a_tuned_state_goes_along_transposed(tmp_path: Path) -> None:
    stored = from_module(model_of("7"))
    generator = torch.Generator().manual_seed(0)
    state = {f"blocks.{i}.att.time_state": torch.randn(4, 4, 4, generator=generator) for i in range(3)}
    writers.write(tmp_path / "a.st", replace(stored, tuned_state=weights(state)), "web-rwkv")
    written = load_file(tmp_path / "a.st")
    after = open_model(tmp_path / "a.st").tuned_state
    for name, tensor in state.items():
        assert torch.equal(written[name], tensor.half().mT)
        assert torch.equal(after[name].read(), tensor.half())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (random_model(attention_size=32), "attention_size 32 beside hidden_size 24"),
        (example("5.0"), r"RWKV-5\.0; of RWKV-5 it runs 5\.2"),
        (example("5.1"), r"RWKV-5\.1; of RWKV-5 it runs 5\.2"),
        (RWKV7(replace(example("7").config, num_layers=1, value_rank=32)), "RWKV-7 of one layer"),
    ],
)
def test_what_the_program_cannot_run_is_not_written(tmp_path: Path, model: AnyModel, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checkpoints.save(model, tmp_path / "a.st", format="web-rwkv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [65520.0, -1e30])
def test_a_value_beyond_float16_is_refused_by_name(tmp_path: Path, value: float) -> None:
    model = random_model()
    with torch.no_grad():
        model.get_parameter("blocks.1.ffn.value.weight")[3, 4] = value
    with pytest.raises(
        ConfigError, match=r"'blocks\.1\.ffn\.value\.weight' holds values up to (6\.552e\+04|1e\+30)"
    ):
        checkpoints.save(model, tmp_path / "a.st", format="web-rwkv")
    assert list(tmp_path.iterdir()) == []


def test_errors_name_tensors_as_the_file_does(tmp_path: Path) -> None:
    checkpoints.save(model_of("6"), tmp_path / "a.st", format="web-rwkv")
    tensors = load_file(tmp_path / "a.st")
    tensors["blocks.1.att.time_mix_k"][..., 5] = float("nan")
    save_file(tensors, tmp_path / "b.st")
    with pytest.raises(CheckpointError, match=r"'blocks\.1\.att\.time_mix_k' holds nan at \[0, 0, 5\]"):
        checkpoints.load(tmp_path / "b.st")
    del tensors["blocks.2.att.time_mix_w1"]
    save_file(tensors, tmp_path / "b.st")
    with pytest.raises(CheckpointError, match=r"'blocks\.2\.att\.time_mix_w1' is missing"):
        checkpoints.load(tmp_path / "b.st")


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3, 4)])
def test_odd_shapes_are_no_reason_to_fail(shape: tuple[int, ...]) -> None:
    for name in ("emb.weight", "blocks.0.att.w1", "blocks.0.att.time_first"):
        contents = Contents(
            path=Path("a.safetensors"),
            format="safetensors",
            weights=weights({name: torch.zeros(shape)}),
            files=(),
        )
        assert not web_rwkv.recognises(contents)
