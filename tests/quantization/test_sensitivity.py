from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from receptance import checkpoints
from receptance.errors import ConfigError
from receptance.quantization.packed import Format, PackedMatrix
from receptance.quantization.sensitivity import divergences, spare
from tests.models.examples import EXAMPLES, example


def test_it_is_the_divergence_that_is_measured(shared: Path) -> None:
    model = checkpoints.load(shared / "data/tiny-models/rwkv-5.2-730K.safetensors", dtype=torch.float32).model
    with lzma.open(shared / "data/corpora/tinystories.valid.jsonl.xz", "rt", encoding="utf-8") as file:
        text = json.loads(file.readline())["text"].encode()
    tokens = torch.tensor(list(text[: 64 * 64])).view(64, 64)
    predicted = divergences(model, tokens)
    with torch.no_grad():
        expected = model(tokens)[0].log_softmax(-1)
    ratios = []
    for name in ("blocks.0.att.key", "blocks.5.ffn.key", "blocks.11.ffn.value", "head"):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        exact = linear.weight.data
        linear.weight.data = PackedMatrix.pack(exact, "int4").dequantize()
        with torch.no_grad():
            found = model(tokens)[0].log_softmax(-1)
        measured = float((expected.exp() * (expected - found)).sum(-1).mean())
        ratios.append(predicted[f"{name}.weight"]["int4"] / measured)
        linear.weight.data = exact
    assert 0.5 < min(ratios) <= max(ratios) < 2
    assert 0.8 < sum(ratios) / len(ratios) < 1.25


@pytest.mark.parametrize("generation", EXAMPLES)
def test_every_wide_matrix_is_measured_and_nothing_is_left_behind(generation: str) -> None:
    model = example(generation, torch.float32)
    tokens = torch.randint(29, (4, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, state = model(tokens[:1])
    reported: list[tuple[str, int, int]] = []
    found = divergences(model, tokens, state=state, report=lambda *r: reported.append(r))
    assert found == divergences(model, tokens, state=state)
    assert reported[-1][1:] == (4, 4)
    assert set(found) == {
        f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)
    }
    assert all(each["int4"] > each["int8"] > 0 for each in found.values())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    bits=st.floats(4.5, 8.5),
    seed=st.integers(0, 100),
)
def test_the_bits_are_kept_to_and_what_is_spared_gains_most(sizes: list[int], bits: float, seed: int) -> None:
    costs = torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed)).tolist()
    names = [str(index) for index in range(len(sizes))]
    by_name = dict(zip(names, sizes, strict=True))
    measured: dict[str, dict[Format, float]] = {
        name: {"int4": cost, "int8": cost / 200} for name, cost in zip(names, costs, strict=True)
    }
    chosen = spare(measured, by_name, bits)
    used = sum({"int4": 4.5, "int8": 8.5}[chosen[name]] * size for name, size in by_name.items())
    assert used <= bits * sum(sizes) + 1e-6
    for spared in (name for name in names if chosen[name] == "int8"):
        for left in (name for name in names if chosen[name] == "int4" and by_name[name] <= by_name[spared]):
            assert measured[left]["int4"] / by_name[left] <= measured[spared]["int4"] / by_name[spared]


def test_the_bounds_are_int4_and_int8() -> None:
    measured: dict[str, dict[Format, float]] = {"a": {"int4": 1, "int8": 0.1}, "b": {"int4": 2, "int8": 0.1}}
    sizes = {"a": 10, "b": 20}
    assert set(spare(measured, sizes, 4.5).values()) == {"int4"}
    assert set(spare(measured, sizes, 8.5).values()) == {"int8"}
    for bits in (4.4, 8.6, float("nan")):
        with pytest.raises(ConfigError, match=r"bits is .*, but between int4 and int8 there are 4.5 to 8.5"):
            spare(measured, sizes, bits)
