from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receptance import native
from receptance.inspection.memory import memory, states_along
from receptance.models import AnyModel
from receptance.runtimes import NativeModel
from tests.models.examples import EXAMPLES, example

TEXT = torch.tensor([3, 17, 17, 0, 28, 5])


@torch.inference_mode()
def held(model: AnyModel, layer: int, tokens: Tensor) -> Tensor:
    """What a layer holds after these tokens, read in one pass: a matrix a head, a vector in RWKV-4."""
    _, state = model(tokens[None])
    if model.config.generation == "4":
        return (state.numerator / state.denominator)[layer, 0][None]
    return state.wkv[layer, 0]


@pytest.mark.parametrize("generation", EXAMPLES)
def test_size_and_change_are_those_of_the_states_of_whole_passes(generation: str) -> None:
    model = example(generation)
    found = memory(model, TEXT)
    for layer in range(model.config.num_layers):
        for t in range(1, len(TEXT)):
            before, after = held(model, layer, TEXT[:t]), held(model, layer, TEXT[: t + 1])
            norms = after.flatten(1).square().sum(1).sqrt()
            changes = (after - before).flatten(1).square().sum(1).sqrt() / norms
            torch.testing.assert_close(found.norms[t, layer], norms)
            torch.testing.assert_close(found.changes[t, layer], changes)
    torch.testing.assert_close(found.changes[0], torch.ones_like(found.changes[0]))


def test_a_memory_that_stays_empty_has_no_size_and_no_change() -> None:
    model = example("6")
    with torch.no_grad():
        for block in model.layers:
            block.att.key.weight.zero_()
    found = memory(model, TEXT)
    assert float(found.norms.max()) == float(found.changes.max()) == 0


@pytest.mark.skipif(native.library() is None, reason="needs the native library")
def test_the_native_runtime_remembers_the_same_after_each_token() -> None:
    """Over more tokens than it reads at once."""
    model = example("7", dtype=torch.float32)
    text = TEXT.repeat(6)
    states = list(states_along(NativeModel.pack(model), text))
    assert len(states) == len(text)
    for count in (1, 15, 16, 17, len(text)):
        with torch.no_grad():
            _, expected = model(text[None, :count])
        for name, tensor in states[count - 1].tensors().items():
            torch.testing.assert_close(tensor, expected.tensors()[name], rtol=1e-4, atol=1e-5)


def test_the_states_of_a_text_go_on_from_the_state_before_it() -> None:
    model = example("7")
    _, middle = model(TEXT[None, :3])
    *_, last = states_along(model, TEXT[3:], middle)
    _, expected = model(TEXT[None])
    for name, tensor in last.tensors().items():
        torch.testing.assert_close(tensor, expected.tensors()[name])
