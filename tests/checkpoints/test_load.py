"""A model comes whole and as the file says, or an error names the tensor; nothing in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints.writers import FormatName
from receptance.errors import CheckpointError, ConfigError
from receptance.models import RWKV4, AnyModel, RWKV4Config
from tests.checkpoints.files import assert_same_weights, official, random_model, random_tokens

FORMATS: tuple[FormatName, ...] = ("receptance", "pth", "transformers")


def write_pth(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, path)
    return path


# Independent truth: logits of rwkv.cpp, and a float64 program in numpy.


def test_a_trained_model_gives_the_logits_of_rwkv_cpp(shared: Path) -> None:
    folder = shared / "data" / "tiny-models"
    model = checkpoints.load(folder / "rwkv-4.0-660K.safetensors").model
    logits, _ = model(torch.tensor([[34, 105, 110]]))
    expected = torch.from_numpy(np.load(folder / "rwkv-4.0-660K.expected-logits.npy"))
    torch.testing.assert_close(logits[0, -1], expected, rtol=0, atol=1e-5)


def test_a_trained_model_gives_the_logits_and_the_state_of_a_float64_program(shared: Path) -> None:
    folder = shared / "data" / "tiny-models"
    model = checkpoints.load(folder / "rwkv-4.0-660K.safetensors").model
    expected = np.load(folder / "rwkv-4.0-660K.ref.npz")
    logits, state = model(torch.from_numpy(expected["tokens"]).long().unsqueeze(0))
    torch.testing.assert_close(logits[0], torch.from_numpy(expected["logits"]), rtol=0, atol=3e-5)
    for ours, theirs in (
        (state.time_shift, "att_x_prev"),
        (state.channel_shift, "ffn_x_prev"),
        (state.numerator * state.exponent.exp(), "wkv_aa"),
        (state.denominator * state.exponent.exp(), "wkv_bb"),
    ):
        reference = torch.from_numpy(expected[theirs]).double()
        if theirs.startswith("wkv"):
            reference = reference * torch.from_numpy(expected["wkv_pp"]).double().exp()
        torch.testing.assert_close(ours[:, 0].double(), reference, rtol=1e-5, atol=1e-5)


# What comes out.


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_loaded_model_is_whole_in_eval_mode_and_may_be_trained(
    tmp_path: Path, format_name: FormatName
) -> None:
    original = random_model()
    checkpoints.save(original, tmp_path / "model", format=format_name)
    checkpoint = checkpoints.load(tmp_path / "model")
    model = checkpoint.model
    assert isinstance(model, RWKV4)
    assert_same_weights(model, original)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config == original.config
    assert model.device == torch.device("cpu")
    tokens = random_tokens(original, 20)
    torch.testing.assert_close(model(tokens)[0], original(tokens)[0], rtol=0, atol=1e-6)
    model(tokens)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("format_name", ["receptance", "pth"])
def test_training_a_loaded_model_leaves_its_file_alone(tmp_path: Path, format_name: FormatName) -> None:
    checkpoints.save(random_model(), tmp_path / "model", format=format_name)
    before = (tmp_path / "model").read_bytes()
    model = checkpoints.load(tmp_path / "model").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (tmp_path / "model").read_bytes() == before


@given(
    vocabulary=st.integers(1, 20),
    layers=st.integers(2, 4),
    hidden=st.integers(1, 12),
    feed_forward=st.integers(1, 20),
    seed=st.integers(0, 100),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    through=st.permutations(FORMATS),
)
@settings(max_examples=25, deadline=None)
def test_any_model_goes_through_all_formats_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory,
    vocabulary: int,
    layers: int,
    hidden: int,
    feed_forward: int,
    seed: int,
    dtype: torch.dtype,
    through: list[FormatName],
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    sizes = {"vocabulary_size": vocabulary, "num_layers": layers, "hidden_size": hidden}
    original = random_model(seed, feed_forward_size=feed_forward, **sizes)
    model: AnyModel = original.to(dtype) if dtype == torch.float64 else original.cast_matrices(dtype)
    for step, format_name in enumerate(through):
        path = folder / str(step)
        checkpoints.save(model, path, format=format_name)
        model = checkpoints.load(path).model
    assert model.config == original.config
    assert_same_weights(model, original)


def test_an_official_bfloat16_file_goes_through_our_format_and_comes_back_the_same(tmp_path: Path) -> None:
    published = {name: tensor.bfloat16() for name, tensor in official(random_model()).items()}
    checkpoint = checkpoints.load(write_pth(tmp_path / "a.pth", published))
    checkpoints.save(checkpoint.model, tmp_path / "a.safetensors")
    checkpoints.save(checkpoints.load(tmp_path / "a.safetensors").model, tmp_path / "b.pth", format="pth")
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert list(back) == list(published)
    for name, tensor in published.items():
        assert (back[name].dtype, back[name].shape) == (torch.bfloat16, tensor.shape)
        assert torch.equal(back[name], tensor)


def test_sizes_that_differ_from_the_usual_are_read_from_the_tensors(tmp_path: Path) -> None:
    original = random_model(attention_size=40, feed_forward_size=50)
    checkpoint = checkpoints.load(write_pth(tmp_path / "a.pth", official(original)))
    assert checkpoint.model.config == original.config
    tokens = random_tokens(original, 9)
    torch.testing.assert_close(checkpoint.model(tokens)[0], original(tokens)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("asked", [None, torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_matrices_take_the_dtype_and_vectors_stay_precise(
    tmp_path: Path, stored: torch.dtype, asked: torch.dtype | None
) -> None:
    tensors = {name: tensor.to(stored) for name, tensor in official(random_model()).items()}
    model = checkpoints.load(write_pth(tmp_path / "a.pth", tensors), dtype=asked).model
    matrices = asked or stored
    vectors = torch.float64 if matrices == torch.float64 else torch.float32
    for name, parameter in model.state_dict().items():
        wanted = matrices if parameter.ndim == 2 else vectors
        assert parameter.dtype == wanted, name
        assert torch.equal(parameter, tensors[name].reshape(parameter.shape).to(wanted))


def test_matrices_of_several_dtypes_take_the_widest(tmp_path: Path) -> None:
    tensors = official(random_model())
    tensors["head.weight"] = tensors["head.weight"].bfloat16()
    model = checkpoints.load(write_pth(tmp_path / "a.pth", tensors)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_is_handed_out_is_laid_out_for_the_kernels(tmp_path: Path) -> None:
    tensors = official(random_model())
    tensors["head.weight"] = tensors["head.weight"].t().contiguous().t()
    model = checkpoints.load(write_pth(tmp_path / "a.pth", tensors)).model
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert torch.equal(model.head.weight, tensors["head.weight"])


def test_a_tensor_at_an_odd_address_is_moved(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save(random_model(), path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path.write_bytes(
        (length + 1).to_bytes(8, "little") + content[8 : 8 + length] + b" " + content[8 + length :]
    )
    model = checkpoints.load(path).model
    assert_same_weights(model, random_model())
    assert all(parameter.data_ptr() % 4 == 0 for parameter in model.parameters())


# What the caller asks for.


def test_an_override_sets_what_the_file_does_not_say(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "a.pth", official(random_model()))
    model = checkpoints.load(path, layer_norm_epsilon=0.5).model
    assert model.config.layer_norm_epsilon == 0.5
    tokens = random_tokens(model, 9)
    assert (model(tokens)[0] - checkpoints.load(path).model(tokens)[0]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layer_norm_eps": 1e-6}, "no 'layer_norm_eps'. Did you mean 'layer_norm_epsilon'"),
        ({"colour": 1}, "no 'colour'. There are vocabulary_size, "),
        ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon is '1e-6', but it must be a finite float"),
        ({"layer_norm_epsilon": math.inf}, "layer_norm_epsilon is inf"),
        ({"num_layers": 3.0}, "num_layers is 3.0, but it must be a finite int"),
        ({"num_layers": 0}, "num_layers is 0, but it must be at least 1"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon is 0.0, but it must be between 0 and 1"),
        ({"layer_norm_epsilon": 1.5}, "layer_norm_epsilon is 1.5, but it must be between 0 and 1"),
        ({"dtype": torch.int8}, "dtype is torch.int8"),
        ({"device": "quantum"}, "device 'quantum' cannot be used"),
    ],
)
def test_an_argument_that_cannot_be_obeyed_is_a_config_error(
    tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    path = write_pth(tmp_path / "a.pth", official(random_model()))
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        checkpoints.load(path, **overrides)


def test_an_override_that_the_tensors_contradict_names_the_tensor(tmp_path: Path) -> None:
    path = write_pth(tmp_path / "a.pth", official(random_model()))
    with pytest.raises(
        CheckpointError, match=r"'emb\.weight' is \(31, 24\), but RWKV4Config\(.*\) needs \(30, 24\)"
    ):
        checkpoints.load(path, vocabulary_size=30)


def test_values_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    tensors = official(random_model())
    tensors["head.weight"][1, 2] = -70_000
    path = write_pth(tmp_path / "a.pth", tensors)
    with pytest.raises(
        CheckpointError, match=r"'head\.weight' holds values up to 7e\+04, too large for torch.float16"
    ):
        checkpoints.load(path, dtype=torch.float16)
    assert checkpoints.load(path, dtype=torch.bfloat16).model.dtype == torch.bfloat16


# What is wrong with a file.

NAMES = list(random_model(num_layers=2).state_dict())


@pytest.mark.parametrize(("place", "name"), list(enumerate(NAMES)))
def test_a_value_that_is_not_finite_is_found_in_every_tensor(tmp_path: Path, place: int, name: str) -> None:
    tensors = official(random_model(num_layers=2))
    value = (math.nan, math.inf, -math.inf)[place % 3]
    tensors[name].view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=f"'{name}' holds {value} at "):
        checkpoints.load(write_pth(tmp_path / "a.pth", tensors))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_value_that_is_not_finite_is_found_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in official(random_model()).items()}
    tensors["blocks.2.ffn.value.weight"][3, 50] = math.nan
    with pytest.raises(CheckpointError, match=r"'blocks\.2\.ffn\.value\.weight' holds nan at \[3, 50\]"):
        checkpoints.load(write_pth(tmp_path / "a.pth", tensors))


@pytest.mark.parametrize("name", NAMES)
def test_every_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    tensors = official(random_model(num_layers=2))
    del tensors[name]
    with pytest.raises(CheckpointError, match=f"'{name}' is missing"):
        checkpoints.load(write_pth(tmp_path / "a.pth", tensors))


# Where one of these is wrong, it is taken for right and others contradict it.
READ_FOR_SIZES = ("emb.weight", "blocks.0.att.key.weight", "blocks.0.ffn.key.weight")


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_a_wrong_shape_is_named(tmp_path: Path, name: str) -> None:
    tensors = official(random_model(num_layers=2))
    tensors[name] = torch.zeros(tensors[name].numel() + 1, 1)
    wrong = "[^']*" if name in READ_FOR_SIZES else name
    with pytest.raises(CheckpointError, match=rf"'{wrong}' is \(.*\), but RWKV4Config\(.*\) needs \("):
        checkpoints.load(write_pth(tmp_path / "a.pth", tensors))


def _rename(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.1.att.kye.weight"] = tensors.pop("blocks.1.att.key.weight")


def _add_layer(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.5.ln1.weight"] = torch.zeros(24)


def _add_absurd_layer(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.99999999.ln1.weight"] = torch.zeros(24)


def _add_strange(tensors: dict[str, Tensor]) -> None:
    tensors["../../etc/passwd"] = torch.zeros(24)
    tensors["\x1b[31m"] = torch.zeros(24)


def _make_integer(tensors: dict[str, Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"].to(torch.int8)


def _make_complex(tensors: dict[str, Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"].to(torch.complex64)


def _make_flat(tensors: dict[str, Tensor]) -> None:
    tensors["emb.weight"] = tensors["emb.weight"].view(-1)


def _make_empty(tensors: dict[str, Tensor]) -> None:
    tensors["emb.weight"] = torch.zeros(0, 24)


def _pad_wrongly(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.0.att.time_mix_k"] = torch.zeros(24, 1, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            _rename,
            r"'blocks\.1\.att\.key\.weight' is missing, and 'blocks\.1\.att\.kye\.weight' is no tensor of",
        ),
        (_add_layer, r"'blocks\.3\.ln1\.weight' is missing \(and \d+ more\)"),
        (_add_absurd_layer, "of layer 99999999, but no model has 1000"),
        (_add_strange, r"'\.\./\.\./etc/passwd' is no tensor of RWKV4 \(and 1 more\)"),
        (_make_integer, r"'head\.weight' is of torch\.int8"),
        (_make_complex, r"'head\.weight' is of torch\.complex64"),
        (_make_flat, r"'emb\.weight' is \(744,\), but it must have 2 axes"),
        (_make_empty, "no model has these sizes: vocabulary_size is 0"),
        (_pad_wrongly, r"'blocks\.0\.att\.time_mix_k' is \(24, 1, 1\), but RWKV4Config\(.*\) needs \(24,\)"),
    ],
)
def test_what_is_wrong_is_named_at_once(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    tensors = official(random_model())
    damage(tensors)
    path = write_pth(tmp_path / "a.pth", tensors)
    started = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(path)
    assert time.process_time() - started < 20


def test_a_wrapped_name_is_shown_as_the_file_has_it(tmp_path: Path) -> None:
    tensors = {f"_forward_module.{name}": tensor for name, tensor in official(random_model()).items()}
    del tensors["_forward_module.ln_out.bias"]
    with pytest.raises(CheckpointError, match=r"'_forward_module\.ln_out\.bias' is missing"):
        checkpoints.load(write_pth(tmp_path / "a.pth", tensors))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to count private memory")
@pytest.mark.parametrize("format_name", FORMATS)
def test_loading_takes_no_memory_of_its_own(tmp_path: Path, format_name: FormatName) -> None:
    with torch.device("meta"):
        model = RWKV4(RWKV4Config(vocabulary_size=12_000, num_layers=2, hidden_size=768))
    model.load_state_dict({k: torch.rand(v.shape) for k, v in model.state_dict().items()}, assign=True)
    size = sum(parameter.nbytes for parameter in model.parameters())
    before_saving = private_bytes()
    checkpoints.save(model, tmp_path / "model", format=format_name)
    assert private_bytes() - before_saving < size / 4
    before_loading = private_bytes()
    checkpoint = checkpoints.load(tmp_path / "model")
    assert private_bytes() - before_loading < size / 4
    assert checkpoint.model.num_parameters * 4 == size


def private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024
