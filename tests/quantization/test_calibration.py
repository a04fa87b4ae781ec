from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from receptance import checkpoints
from receptance.errors import ConfigError
from receptance.models import AnyModel
from receptance.quantization.calibration import pack_for_text
from receptance.quantization.compensated import Moments, compensated
from receptance.quantization.packed import Format, PackedMatrix
from tests.models.examples import EXAMPLES, example

every_generation = pytest.mark.parametrize("generation", EXAMPLES)


def wide(model: AnyModel) -> dict[str, nn.Linear]:
    return {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, nn.Linear)}


def random_windows(model: AnyModel, windows: int, time: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocabulary_size, (windows, time), generator=generator)


def inputs_of(model: AnyModel, name: str, tokens: Tensor) -> Tensor:
    """Return what a matrix is given when the model reads the tokens."""
    seen: list[Tensor] = []
    handle = wide(model)[name].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(tokens)
    handle.remove()
    return seen[0].flatten(0, 1)


@every_generation
def test_every_wide_matrix_is_packed_in_its_format_and_the_model_stays(generation: str) -> None:
    model = example(generation, torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds: list[Format] = ["int4", "int8", "bfloat16", "float32"]
    formats = {name: kinds[index % 4] for index, name in enumerate(wide(model))}
    reported: list[tuple[str, int, int]] = []
    packed = pack_for_text(model, random_windows(model, 3, 20), formats, report=lambda *r: reported.append(r))
    assert {name: matrix.format for name, matrix in packed.items()} == formats
    for name, linear in wide(model).items():
        assert (packed[name].rows, packed[name].columns) == linear.weight.shape
    assert reported[-1][1:] == (len(formats), len(formats))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@every_generation
@pytest.mark.parametrize("name", ["blocks.2.att.output.weight", "blocks.1.ffn.value.weight", "head.weight"])
def test_each_matrix_is_rounded_for_the_inputs_that_it_gets(
    generation: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receptance.quantization.calibration._TOKENS_AT_ONCE", 40)  # several parts
    model = example(generation, torch.float32)
    tokens = random_windows(model, 5, 20)
    formats: dict[str, Format] = dict.fromkeys(wide(model), "float32")
    found = pack_for_text(model, tokens, {**formats, name: "int4"})[name]
    x = inputs_of(model, name, tokens)
    moments = x.T @ x / len(x)
    expected = compensated(wide(model)[name].weight, "int4", Moments(moments, moments))
    equal = (found.dequantize() - expected.dequantize()).abs() < 1e-6
    assert equal.float().mean() > 0.98  # sums in another order may decide a tie otherwise


def test_matrices_make_up_for_those_before(shared: Path) -> None:
    model = checkpoints.load(shared / "data/tiny-models/rwkv-5.2-730K.safetensors", dtype=torch.float32).model
    text = Path(__file__).with_name("test_packed.py").read_bytes() * 2
    tokens = torch.tensor(list(text[: 16 * 128])).view(16, 128)
    formats: dict[str, Format] = dict.fromkeys(wide(model), "int4")
    matrices = {name: linear.weight.detach().clone() for name, linear in wide(model).items()}
    with torch.no_grad():
        expected = model(tokens)[0].log_softmax(-1)

    def divergence(packed: dict[str, PackedMatrix]) -> float:
        for name, linear in wide(model).items():
            linear.weight.data = packed[name].dequantize()
        with torch.no_grad():
            found = model(tokens)[0].log_softmax(-1)
        for name, linear in wide(model).items():
            linear.weight.data = matrices[name]
        return float((expected.exp() * (expected - found)).sum(-1).mean())

    nearest = divergence({name: PackedMatrix.pack(matrix, "int4") for name, matrix in matrices.items()})
    assert divergence(pack_for_text(model, tokens, formats)) < nearest / 2.5


def test_windows_begin_from_the_state() -> None:
    model = example("7", torch.float32)
    tokens = random_windows(model, 4, 12)
    formats: dict[str, Format] = dict.fromkeys(wide(model), "int4")
    with torch.no_grad():
        _, state = model(random_windows(model, 1, 9))
    from_start, from_state = (pack_for_text(model, tokens, formats, state=begin) for begin in (None, state))
    assert any(not torch.equal(from_start[name].data, from_state[name].data) for name in formats)


def test_a_matrix_without_a_format_is_named() -> None:
    model = example("4", torch.float32)
    with pytest.raises(ConfigError, match=r"'blocks.0.att.receptance.weight' has no format"):
        pack_for_text(model, random_windows(model, 1, 4), {})


def test_a_matrix_with_inputs_that_are_not_finite_is_named() -> None:
    model = example("4", torch.float32)
    with torch.no_grad():
        model.layers[1].ln2.weight.fill_(torch.inf)
    with pytest.raises(ConfigError, match=r"'blocks.1.ffn.receptance.weight': .* not finite"):
        pack_for_text(model, random_windows(model, 1, 4), dict.fromkeys(wide(model), "int4"))
