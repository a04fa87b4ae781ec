from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from receptance import checkpoints, native
from receptance.checkpoints import packed_weights
from receptance.checkpoints.contents import Packed, Weight
from receptance.checkpoints.stored_model import from_module
from receptance.errors import ConfigError, KernelError
from receptance.models import (
    RWKV5,
    RWKV6,
    RWKV7,
    AnyModel,
    RWKV5Config,
    RWKV6Config,
    RWKV7Config,
    State,
)
from receptance.quantization.packed import FORMATS, Format, PackedMatrix
from receptance.runtimes import NativeModel
from receptance.runtimes import native as native_runtime
from tests.models.examples import EXAMPLES, SIZES, example

pytestmark = pytest.mark.skipif(not native.levels(), reason=str(native.unavailable_reason()))

# Heads that fill whole vectors take another way through a single token.
WIDE: dict[str, Callable[[], AnyModel]] = {
    "5.2 wide": lambda: RWKV5(RWKV5Config(**SIZES | {"hidden_size": 96}, head_size=48)),
    "6 wide": lambda: RWKV6(
        RWKV6Config(**SIZES | {"hidden_size": 128}, head_size=64, mix_rank=5, decay_rank=9)
    ),
    "7 wide": lambda: RWKV7(RWKV7Config(**SIZES | {"hidden_size": 96}, head_size=32)),
}
GENERATIONS = (*EXAMPLES, *WIDE)
SHAPES = ((1, 1), (1, 7), (3, 1), (2, 33))
TINY = ("4.0-660K", "5.1-730K", "5.2-730K", "6.0-3m-dequantQ5_1", "7.0-834K")


def model_of(generation: str) -> AnyModel:
    """A small model in float32 in which every parameter matters."""
    if generation in EXAMPLES:
        return example(generation, torch.float32)
    generator = torch.Generator().manual_seed(0)
    model = WIDE[generation]()
    model.initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def tokens_of(batch: int, time: int, vocabulary: int = SIZES["vocabulary_size"]) -> Tensor:
    return torch.randint(vocabulary, (batch, time), generator=torch.Generator().manual_seed(1))


def state_after_text(model: AnyModel, batch: int) -> State:
    """A state that no text of the test begins with."""
    tokens = tokens_of(batch, 4).flip(1)
    with torch.no_grad():
        state: State = model(tokens)[1]
    return state


def dequantized(model: AnyModel, dtype: Format) -> AnyModel:
    """The same model in float64, its weights being those that the packed one holds."""
    for name, parameter in model.named_parameters():
        if not model.is_matrix(name, parameter.shape):
            continue
        with torch.no_grad():
            if name == "emb.weight":
                embedding_format: Format = "int8" if dtype in ("int8", "int4") else dtype
                parameter.copy_(PackedMatrix.pack(parameter, embedding_format).dequantize())
            elif name.endswith(".weight"):
                parameter.copy_(PackedMatrix.pack(parameter, dtype).dequantize())
            elif dtype != "float32":
                parameter.copy_(parameter.bfloat16())
    return model.double()


def same_bits(left: State, right: State) -> bool:
    pairs = zip(left.tensors().values(), right.tensors().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def assert_states_close(actual: State, expected: State, tolerance: float) -> None:
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(
            actual.tensors()[name].double(), tensor.double(), rtol=tolerance, atol=tolerance, msg=name
        )


@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("generation", GENERATIONS)
def test_float32_gives_the_logits_and_the_state_of_the_torch_model(generation: str, level: str) -> None:
    model = model_of(generation)
    with native.use_level(level):
        packed = NativeModel.pack(model, "float32", threads=1)
        for batch, time in SHAPES:
            tokens, state = tokens_of(batch, time), state_after_text(model, batch)
            with torch.no_grad():
                expected, end = model.double()(tokens, state.map(Tensor.double))
            model.float()
            logits, native_end = packed(tokens, state)
            torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-4)
            assert_states_close(native_end, end, 1e-4)


@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("dtype", FORMATS)
def test_every_token_finds_its_row_of_the_embedding(dtype: Format, level: str) -> None:
    """All else is in float32: the logits are those of a model whose embedding holds the rounded numbers."""
    model = model_of("7 wide")
    rounded = PackedMatrix.pack(model.emb.weight, dtype)
    stored = packed_weights.packed(from_module(model), "float32")
    shape = (rounded.rows, rounded.columns)
    embedding = Weight(shape, torch.float32, rounded.dequantize, Packed(dtype, lambda: (rounded,)))
    tokens = torch.arange(SIZES["vocabulary_size"]).view(1, -1)
    with native.use_level(level), torch.no_grad():
        runtime = NativeModel(replace(stored, weights={**stored.weights, "emb.weight": embedding}))
        model.emb.weight.copy_(rounded.dequantize())
        torch.testing.assert_close(runtime(tokens)[0].double(), model.double()(tokens)[0], rtol=0, atol=1e-4)


# Of the error's root mean square, in standard deviations of the logits, over all texts together: of a first
# token a head may say nearly nothing, which its norm makes large with what rounding added. With integers,
# what meets a matrix is rounded to int8; with bfloat16, several tokens are rounded to it where the level has
# instructions for that.
BOUNDS: dict[Format, float] = {"bfloat16": 0.02, "int8": 0.08, "int4": 0.08}
EXACT_LEVELS = ("base", "x86_64_v2", "x86_64_v3", "x86_64_v4")


@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_narrow_weights_give_the_logits_of_a_model_with_these_weights(
    generation: str, dtype: Format, level: str
) -> None:
    bound = 1e-5 if dtype == "bfloat16" and level in EXACT_LEVELS else BOUNDS[dtype]
    with native.use_level(level):
        packed = NativeModel.pack(model_of(generation), dtype, threads=1)
        model = dequantized(model_of(generation), dtype)
        errors, expected = [], []
        for batch, time in SHAPES:
            tokens = tokens_of(batch, time)
            with torch.no_grad():
                expected.append(model(tokens)[0].flatten(0, 1))
            errors.append(packed(tokens)[0].flatten(0, 1) - expected[-1])
        assert torch.cat(errors).square().mean().sqrt() < bound * torch.cat(expected).std()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_bfloat16_weights_meet_single_tokens_in_full_precision(generation: str) -> None:
    packed = NativeModel.pack(model_of(generation), "bfloat16")
    model = dequantized(model_of(generation), "bfloat16")
    tokens = tokens_of(1, 1)
    with torch.no_grad():
        expected, _ = model(tokens)
    torch.testing.assert_close(packed(tokens)[0].double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_number_of_threads_changes_no_bit(generation: str, dtype: Format) -> None:
    model = model_of(generation)
    one, three = (NativeModel.pack(model, dtype, threads=threads) for threads in (1, 3))
    for batch, time in SHAPES:
        tokens, state = tokens_of(batch, time), state_after_text(model, batch)
        (logits, end), (same_logits, same_end) = one(tokens, state), three(tokens, state)
        assert torch.equal(logits, same_logits)
        assert same_bits(end, same_end)


@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_span_in_steps_gives_every_bit_of_single_tokens(generation: str, dtype: Format, level: str) -> None:
    model = model_of(generation)
    with native.use_level(level):
        single = NativeModel.pack(model, dtype, threads=1)
        tokens, state = tokens_of(1, 27), state_after_text(model, 1)
        expected = []
        for token in tokens[0]:
            logits, state = single(token.view(1, 1), state)
            expected.append((logits, state))
        for threads in (1, 2, 3):
            packed = NativeModel.pack(model, dtype, threads=threads)
            state, read = state_after_text(model, 1), 0
            for size in (1, 2, 3, 5, 16):
                span, states = packed.steps(tokens[:, read : read + size], state)
                for index, (logits, after) in enumerate(expected[read : read + size]):
                    assert torch.equal(span[:, index : index + 1], logits)
                    assert same_bits(states[index], after)
                state, read = states[-1], read + size


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("generation", EXAMPLES)
def test_steps_of_many_long_texts_are_those_of_each_alone(generation: str, dtype: Format) -> None:
    model = model_of(generation)
    packed = NativeModel.pack(model, dtype, threads=2)
    for batch, time in ((3, 4), (2, 300)):  # 300 tokens do not go through at once
        tokens, state = tokens_of(batch, time), state_after_text(model, batch)
        logits, states = packed.steps(tokens, state)
        for row in range(batch):
            after = state.row(row)
            for t in range(time):
                alone, after = packed(tokens[row : row + 1, t : t + 1], after)
                assert torch.equal(alone[0, 0], logits[row, t])
                assert same_bits(after, states[t].row(row))


@pytest.mark.parametrize("cut", [1, 2, 300])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_any_split_of_a_text_gives_the_same(generation: str, cut: int) -> None:
    packed = NativeModel.pack(model_of(generation), "float32", threads=2)
    tokens = tokens_of(2, 301)
    whole, end = packed(tokens)
    first, middle = packed(tokens[:, :cut])
    second, split_end = packed(tokens[:, cut:], middle)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=0, atol=1e-4)
    assert_states_close(split_end, end, 1e-3)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_rows_of_a_large_batch_do_not_know_of_each_other(generation: str) -> None:
    model = model_of(generation)
    packed = NativeModel.pack(model, "float32", threads=2)
    tokens = tokens_of(257, 3)  # more tokens than go through at once, and one row left over
    state = state_after_text(model, 257)
    logits, end = packed(tokens, state)
    for row in (0, 85, 256):
        alone, end_alone = packed(tokens[row : row + 1], state.row(row))
        torch.testing.assert_close(logits[row : row + 1], alone, rtol=0, atol=1e-4)
        assert_states_close(end.row(row), end_alone, 1e-4)


@pytest.mark.parametrize("time", [1, 5, 300])
@pytest.mark.parametrize("generation", EXAMPLES)
def test_the_last_logits_can_be_had_alone(generation: str, time: int) -> None:
    packed = NativeModel.pack(model_of(generation), "float32", threads=2)
    tokens = tokens_of(3, time)
    last, end = packed(tokens, last_only=True)
    logits, same_end = packed(tokens)
    torch.testing.assert_close(last, logits[:, -1:], rtol=0, atol=1e-5)
    assert same_bits(end, same_end)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_state_goes_from_one_runtime_to_the_other(generation: str) -> None:
    model = model_of(generation)
    packed = NativeModel.pack(model, "float32")
    tokens = tokens_of(2, 6)
    with torch.no_grad():
        expected, _ = model(tokens)
        by_torch, _ = model(tokens[:, 3:], packed(tokens[:, :3])[1])
        by_native, _ = packed(tokens[:, 3:], model(tokens[:, :3])[1])
    torch.testing.assert_close(by_torch, expected[:, 3:], rtol=0, atol=1e-4)
    torch.testing.assert_close(by_native, expected[:, 3:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("generation", EXAMPLES)
def test_the_first_state_is_that_of_the_torch_model(generation: str) -> None:
    model = model_of(generation)
    assert same_bits(NativeModel.pack(model, "int8").initial_state(3), model.initial_state(3))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_state_that_was_handed_in_is_not_changed(generation: str) -> None:
    model = model_of(generation)
    packed = NativeModel.pack(model, "float32", threads=2)
    state = state_after_text(model, 2)
    copy = state.clone()
    packed(tokens_of(2, 300), state)
    assert same_bits(state, copy)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_rows_of_different_length_are_read_as_if_alone(generation: str) -> None:
    model = model_of(generation)
    packed = NativeModel.pack(model, "float32", threads=2)
    tokens, lengths = tokens_of(4, 9), torch.tensor([9, 0, 4, 9])
    state = state_after_text(model, 4)
    with torch.no_grad():
        expected, expected_end = model(tokens, state, lengths)
    logits, end = packed(tokens, state, lengths)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert_states_close(end, expected_end, 1e-4)
    last, end = packed(tokens, state, lengths, last_only=True)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(
            last[row, 0], expected[row, length - 1] if length else torch.zeros(29), atol=1e-4, rtol=0
        )
    assert_states_close(end, expected_end, 1e-4)


def test_threads_may_call_one_model_at_the_same_time() -> None:
    packed = NativeModel.pack(model_of("7 wide"), "float32", threads=1)
    texts = [tokens_of(1, 20 + index) for index in range(4)]
    expected = [packed(text)[0] for text in texts]
    wrong: list[int] = []

    def read(index: int) -> None:
        results = (packed(texts[index])[0] for _ in range(50))
        wrong.extend(index for result in results if not torch.equal(result, expected[index]))

    readers = [threading.Thread(target=read, args=(index,)) for index in range(len(texts))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong


def trained(shared: Path, name: str) -> AnyModel:
    return checkpoints.load(shared / "data" / "tiny-models" / f"rwkv-{name}.safetensors").model.float()


@pytest.mark.parametrize("name", TINY)
def test_trained_models_give_their_known_logits(shared: Path, name: str) -> None:
    folder = shared / "data" / "tiny-models"
    reference = np.load(folder / f"rwkv-{name}.ref.npz")
    packed = NativeModel.pack(trained(shared, name), "float32")
    tokens = torch.from_numpy(reference["tokens"]).long().view(1, -1)
    # Those of 5.x are known for both ways to divide in the norm of a head.
    expected = reference["logits_gn64e5"] if name.startswith("5") else reference["logits"]
    torch.testing.assert_close(
        packed(tokens)[0][0].double(), torch.from_numpy(expected).double(), rtol=0, atol=5e-5
    )


@pytest.mark.parametrize("name", TINY)
def test_the_most_likely_text_is_that_of_the_torch_model(shared: Path, name: str) -> None:
    model = trained(shared, name)
    packed = NativeModel.pack(model, "float32")
    texts = []
    for runtime in (model, packed):
        tokens, state, text = torch.tensor([[ord(letter) for letter in "The "]]), None, []
        with torch.no_grad():
            for _ in range(100):
                logits, state = runtime(tokens, state)
                tokens = logits[:, -1:].argmax(-1)
                text.append(int(tokens))
        texts.append(text)
    assert texts[0] == texts[1]


def test_what_cannot_be_read_is_refused() -> None:
    model = model_of("6")
    packed = NativeModel.pack(model, "float32")
    with pytest.raises(ConfigError, match="ids go from 0 to 28"):
        packed(torch.tensor([[3, 29]]))
    with pytest.raises(ConfigError, match="token -1"):
        packed(torch.tensor([[-1]]))
    for tokens in (torch.zeros(1, 2), torch.zeros(2, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long)):
        with pytest.raises(ConfigError, match="integers of shape"):
            packed(tokens)
    for state in (
        model.initial_state(3),
        model_of("6 wide").initial_state(2),
        model_of("4").initial_state(2),
    ):
        with pytest.raises(ConfigError, match="2 texts need"):
            packed(tokens_of(2, 2), state)


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ConfigError, match="int4"):
        NativeModel.pack(model_of("4"), "int3")  # type: ignore[arg-type]  # that is the point
    with torch.device("meta"):
        empty = EXAMPLES["4"]()
    with pytest.raises(ConfigError, match="no weights"):
        NativeModel.pack(empty)


def test_without_the_native_library_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("4")
    native_runtime._library.cache_clear()
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "unavailable_reason", lambda: "it is not built")
    with pytest.raises(KernelError, match="it is not built"):
        NativeModel.pack(model)
