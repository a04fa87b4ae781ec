"""A saved text comes back to the bit, goes on as if it had never stopped, and with no other model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance import checkpoints, native
from receptance.checkpoints import safetensors_file
from receptance.checkpoints.stored_model import from_module
from receptance.errors import CheckpointError
from receptance.inference import history_file
from receptance.inference.generate import go_on
from receptance.inference.history import History
from receptance.inference.sampling import Sampling
from receptance.models import AnyModel
from receptance.runtimes import NativeModel
from receptance.tokenizers import load_tokenizer
from tests.checkpoints.tuning.test_tuned_state import random_state
from tests.inference.models import random_model
from tests.models.examples import EXAMPLES, example

FORMATS = from_module(random_model()).formats  # of every matrix whose format can be chosen
BYTES = load_tokenizer("bytes")


def saved(history: History, model: AnyModel | NativeModel, path: Path) -> Path:
    history_file.write(path, history, model)
    return path


def assert_same(ours: History, other: History) -> None:
    """All tokens, and all that is remembered, to the bit and in the same number format."""
    assert (ours.tokens, ours.written) == (other.tokens, other.written)
    assert ours.points.keys() == other.points.keys()
    for position, point in ours.points.items():
        twin = other.points[position]
        for mine, theirs in ((point.state, twin.state), (point.logits, twin.logits)):
            assert (mine is None) == (theirs is None)
        if point.logits is not None and twin.logits is not None:
            assert point.logits.dtype == twin.logits.dtype
            assert torch.equal(point.logits, twin.logits)
        if point.state is not None and twin.state is not None:
            assert type(point.state) is type(twin.state)
            for name, tensor in point.state.tensors().items():
                assert tensor.dtype == twin.state.tensors()[name].dtype
                assert torch.equal(tensor, twin.state.tensors()[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("generation", EXAMPLES)
def test_a_history_comes_back_to_the_bit(generation: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = example(generation, torch.float32)
    model = model.double() if dtype == torch.float64 else model.cast_matrices(dtype)
    history = History(model)
    history.extend([1, 2, 3])
    history.keep()
    history.append(4)
    history.next_logits()
    history.append(5)  # which nobody has read yet
    path = saved(history, model, tmp_path / "text.state")
    back = history_file.read(path, model)
    assert_same(history, back)
    assert back.kept == (0, 3, 4)
    assert torch.equal(back.next_logits(), history.next_logits())
    assert saved(history_file.read(path, model), model, tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_text_that_began_from_a_state_can_go_back_to_it(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    state = random_state(model)
    empty = History(model, state)
    assert_same(empty, history_file.read(saved(empty, model, tmp_path / "empty"), model))
    history = empty.fork()
    history.extend([1, 2, 3])
    expected = history.next_logits()
    back = history_file.read(saved(history, model, tmp_path / "text"), model)
    back.rewind(0)
    back.extend([1, 2, 3])
    assert torch.equal(back.next_logits(), expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 19), st.integers(0, 2**32), st.sampled_from([0.0, 0.8]))
def test_what_goes_on_from_a_file_is_what_one_go_would_have_written(
    tmp_path_factory: pytest.TempPathFactory, cut: int, seed: int, penalty: float
) -> None:
    path = tmp_path_factory.mktemp("state") / "text.state"
    sampling = Sampling(seed=seed, top_p=1, presence_penalty=penalty, frequency_penalty=penalty, ban=[0])
    whole = History(random_model())
    pieces = list(go_on(whole, BYTES, b"Once", max_tokens=20, sampling=sampling))
    first = History(random_model())
    written = list(go_on(first, BYTES, b"Once", max_tokens=cut, sampling=sampling))
    second = history_file.read(saved(first, random_model(), path), random_model())
    written += go_on(second, BYTES, max_tokens=20 - cut, sampling=sampling)
    assert [piece.token for piece in written] == [piece.token for piece in pieces]
    assert torch.equal(second.next_logits(), whole.next_logits())


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (random_model(seed=1), "its fingerprint is .* It was saved by a model with other weights"),
        (random_model(vocabulary_size=300), "its config is .* It was saved by a model of other sizes"),
        (example("7", torch.float32), "its config is .*generation.*4.*7"),
        (
            random_model(dtype=torch.bfloat16),
            "its dtype is float32, but this model's is bfloat16. Load the model in the number format",
        ),
    ],
    ids=["weights", "sizes", "generation", "dtype"],
)
def test_another_model_refuses_it_and_says_why(other: AnyModel, complaint: str, tmp_path: Path) -> None:
    history = History(random_model())
    history.extend([1, 2, 3])
    path = saved(history, random_model(), tmp_path / "text.state")
    with pytest.raises(CheckpointError, match=complaint):
        history_file.read(path, other)


needs_native = pytest.mark.skipif(not native.levels(), reason=str(native.unavailable_reason()))


@needs_native
@pytest.mark.parametrize("generation", ["4", "7"])
def test_the_native_runtime_goes_on_to_the_bit(generation: str, tmp_path: Path) -> None:
    whole = History(NativeModel.pack(example(generation, torch.float32), "int8"))
    first = History(NativeModel.pack(example(generation, torch.float32), "int8"))
    for history in (whole, first):
        history.extend([1, 2, 3])
        history.keep()
    assert isinstance(first.model, NativeModel)
    path = saved(first, first.model, tmp_path / "text.state")
    model = NativeModel.pack(example(generation, torch.float32), "int8")
    second = history_file.read(path, model)
    assert_same(first, second)
    for history in (whole, second):
        history.extend([4, 5])
    assert torch.equal(second.next_logits(), whole.next_logits())
    assert second.kept == (0, 3)


OTHERS = {
    "runtime": (
        random_model,
        None,
        "its runtime is torch, but this model's is native. Load the model in the",
    ),
    "format": (
        lambda: NativeModel.pack(random_model(), "int8"),
        "int4",
        "its dtype is int8, but this model's is int4",
    ),
    "weights": (
        lambda: NativeModel.pack(random_model(seed=1), "int8"),
        "int8",
        "its fingerprint is .* other weights",
    ),
    "format of one matrix": (
        lambda: NativeModel.pack(
            random_model(), dict.fromkeys(FORMATS, "int8") | {"blocks.0.ffn.value.weight": "int4"}
        ),
        dict.fromkeys(FORMATS, "int8") | {"blocks.1.ffn.value.weight": "int4"},
        "its fingerprint is .* other weights",
    ),
}


@needs_native
@pytest.mark.parametrize("case", OTHERS)
def test_the_native_runtime_refuses_another_model_runtime_and_format(case: str, tmp_path: Path) -> None:
    make_theirs, formats, complaint = OTHERS[case]
    theirs = make_theirs()
    history = History(theirs)
    history.extend([1, 2, 3])
    path = saved(history, theirs, tmp_path / "text.state")
    with pytest.raises(CheckpointError, match=complaint):
        history_file.read(path, NativeModel.pack(random_model(), formats))


@needs_native
def test_a_file_packed_before_and_a_model_packed_now_are_one_model(tmp_path: Path) -> None:
    source = from_module(random_model())
    checkpoints.quantize(source, tmp_path / "int4.safetensors", "int4")
    again = NativeModel.pack(checkpoints.open_model(tmp_path / "int4.safetensors"))
    assert again.fingerprint == NativeModel.pack(random_model(), "int4").fingerprint
    assert again.fingerprint != NativeModel.pack(random_model(seed=1), "int4").fingerprint


def changed(path: Path, tensors: dict[str, torch.Tensor | None], **metadata: str) -> Path:
    """The file with other tensors and metadata, and with an honest digest."""
    content, said = safetensors_file.read(path)
    kept = {name: tensor for name, tensor in (content | tensors).items() if tensor is not None}
    said |= metadata
    said |= {"digest": history_file.digest(kept, said["num_written"])}
    safetensors_file.write(path.with_name("changed"), kept, said)
    return path.with_name("changed")


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"tokens": None}, "'tokens' is missing"),
        ({"tokens": torch.zeros(3)}, "is no list of 32-bit integers"),
        ({"tokens": torch.zeros(1, 3, dtype=torch.int32)}, "is no list of 32-bit integers"),
        ({"tokens": torch.tensor([0, 1, 256], dtype=torch.int32)}, "goes from 0 to 256"),
        ({"tokens": torch.tensor([0, 1, -5], dtype=torch.int32)}, "goes from -5 to 1"),
        ({"tokens": torch.zeros(2, dtype=torch.int32)}, "is no part of a state of a text of 2 tokens"),
        ({"3.logits": None}, "position 3 has .*, but it needs .*, logits"),
        ({"3.numerator": None}, "position 3 has .*, but it needs"),
        ({"3.numerator": torch.zeros(3, 1, 31)}, r"'3.numerator' is .* of shape \(3, 1, 31\), but the model"),
        ({"3.numerator": torch.zeros(3, 1, 32).double()}, "float64 of .* needs torch.float32"),
        (
            {"3.numerator": torch.full((3, 1, 32), torch.nan)},
            "'3.numerator' holds values that are not finite",
        ),
        ({"3.wkv": torch.zeros(3)}, "'3.wkv' is no part of a state"),
        ({"03.numerator": torch.zeros(3, 1, 32)}, "'03.numerator' is no part of a state"),
        ({"4.numerator": torch.zeros(3, 1, 32)}, "'4.numerator' is no part of a state"),
        ({"0.logits": torch.zeros(256)}, "position 0 has logits, but it needs"),
    ],
    ids=str,
)
def test_what_no_text_of_this_model_can_have_is_refused(
    tensors: dict[str, torch.Tensor | None], complaint: str, tmp_path: Path
) -> None:
    history = History(random_model())
    history.extend([1, 2, 3])
    history.next_logits()
    path = saved(history, random_model(), tmp_path / "text.state")
    assert history_file.read(changed(path, {}), random_model()).tokens == (1, 2, 3)
    with pytest.raises(CheckpointError, match=complaint):
        history_file.read(changed(path, tensors), random_model())


@pytest.mark.parametrize("number", ["4", "-1", "", "1.0", "٣", "9" * 5000])
def test_more_cannot_have_been_written_than_there_is(number: str, tmp_path: Path) -> None:
    history = History(random_model())
    history.extend([1, 2, 3])
    path = changed(saved(history, random_model(), tmp_path / "text.state"), {}, num_written=number)
    with pytest.raises(CheckpointError, match="num_written is"):
        history_file.read(path, random_model())


def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    history = History(random_model())
    history.extend([1, 2, 3])
    history.next_logits()
    path = saved(history, random_model(), tmp_path / "text.state")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: its content is not what its digest was made of"):
        history_file.read(path, random_model())


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file, but a saved state was needed"):
        history_file.read(tmp_path / "none", random_model())
    safetensors_file.write(tmp_path / "model", {"a": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match=r"is no saved state: its format is 'not said'.*tuned state"):
        history_file.read(tmp_path / "model", random_model())
