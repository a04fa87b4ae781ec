"""What `receptance.load` returns reads like the reference, writes repeatably, and refuses nonsense."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Literal

import numpy as np
import pytest
import torch

from receptance import checkpoints, native
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import CheckpointError, ConfigError, TokenizerError
from receptance.inference import Loaded, load
from receptance.inference.sampling import Sampling
from receptance.models import RWKV7, RWKV7Config
from receptance.runtimes import NativeModel
from receptance.tokenizers import load_tokenizer
from tests.checkpoints.tuning.adapters import random_lora, saved
from tests.inference.models import Scripted, random_model
from tests.models.examples import example


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    checkpoints.save(random_model(), tmp_path / "model.safetensors", tokenizer="bytes")
    return tmp_path


def test_logits_are_those_of_the_reference(shared: Path) -> None:
    lm = load(shared / "data" / "tiny-models" / "rwkv-4.0-660K.safetensors")
    expected = np.load(shared / "data" / "tiny-models" / "rwkv-4.0-660K.ref.npz")
    logits, _ = lm(torch.from_numpy(expected["tokens"]).long().unsqueeze(0))
    np.testing.assert_allclose(logits[0].numpy(), expected["logits"], atol=1e-5)


def test_a_state_carries_all_of_the_text_before_and_is_not_changed(run_folder: Path) -> None:
    lm = load(run_folder)
    tokens = torch.randint(256, (3, 20), generator=torch.Generator().manual_seed(0))
    whole, _ = lm(tokens)
    _, state = lm(tokens[:, :12])
    before = state.clone()
    for _ in range(2):
        rest, _ = lm(tokens[:, 12:], state)
        torch.testing.assert_close(rest, whole[:, 12:], rtol=1e-5, atol=1e-5)
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, before.tensors()[name])


def test_rows_of_different_length_are_read_as_if_alone(run_folder: Path) -> None:
    lm = load(run_folder)
    tokens = torch.tensor([[5, 6, 7, 0, 0], [9, 8, 7, 6, 5]])
    logits, state = lm(tokens, lengths=torch.tensor([3, 5]))
    alone, alone_state = lm(tokens[:1, :3])
    torch.testing.assert_close(logits[:1, :3], alone)
    torch.testing.assert_close(state.row(0).tensors(), alone_state.tensors())
    with pytest.raises(ConfigError, match="must be from 0 to 5"):
        lm(tokens, lengths=torch.tensor([3, 6]))


def test_streamed_pieces_join_to_the_generated_text(run_folder: Path) -> None:
    lm = load(run_folder)
    stream = partial(lm.stream, "Once", max_tokens=60, temperature=1.2, top_p=0.9, top_k=100, seed=4)
    generate = partial(lm.generate, "Once", max_tokens=60, temperature=1.2, top_p=0.9, top_k=100, seed=4)
    pieces = list(stream())
    assert "".join(pieces) == generate()
    assert len(pieces) > 10
    assert all(pieces)
    stop = generate()[20:23]
    assert "".join(stream(stop=stop)) == generate(stop=stop) == generate().partition(stop)[0]


def test_a_seed_reproduces_and_no_seed_does_not(run_folder: Path) -> None:
    lm = load(run_folder)
    assert lm.generate("a", top_p=1, seed=1) == lm.generate("a", top_p=1, seed=1)
    assert lm.generate("a", top_p=1) != lm.generate("a", top_p=1)


def test_generation_follows_the_settings(run_folder: Path) -> None:
    lm = load(run_folder)
    greedy = [piece.token for piece in lm.pieces("a", max_tokens=20, sampling=Sampling(temperature=0))]
    assert lm.generate("a", max_tokens=20, temperature=0) == lm.tokenizer.decode(greedy)
    assert lm.generate("a", max_tokens=20, top_k=1) == lm.tokenizer.decode(greedy)
    assert lm.generate("a", max_tokens=20, top_p=0) == lm.tokenizer.decode(greedy)


def test_nothing_records_gradients_but_the_model_can(run_folder: Path) -> None:
    lm = load(run_folder)
    logits, _ = lm(torch.tensor([[1, 2]]))
    assert not logits.requires_grad
    logits, _ = lm.model(torch.tensor([[1, 2]]))
    logits.sum().backward()
    assert lm.model.head.weight.grad is not None


def test_overrides_and_dtype_reach_the_model(run_folder: Path) -> None:
    lm = load(run_folder, dtype=torch.bfloat16, layer_norm_epsilon=1e-3)
    assert lm.model.dtype == torch.bfloat16
    assert lm.config.layer_norm_epsilon == 1e-3  # type: ignore[attr-defined]  # a field of RWKV4Config


def test_it_says_what_it_is(run_folder: Path) -> None:
    assert repr(load(run_folder)) == (
        "<RWKV-4 with 57,504 parameters: 3 layers of 32, vocabulary 256, float32 on cpu, "
        f"from {run_folder / 'model.safetensors'}>"
    )


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        (torch.tensor([1, 2]), r"shape \(2,\), but they must be integers"),
        (torch.tensor([[1.0]]), "float32 of shape"),
        (torch.empty(1, 0, dtype=torch.long), "time at least 1"),
        (torch.tensor([[1], [256]]), "Token 256 is unknown"),
        (torch.tensor([[-1]]), "Token -1 is unknown"),
    ],
)
def test_tokens_that_the_model_cannot_read_are_refused(
    run_folder: Path, tokens: torch.Tensor, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(run_folder)(tokens)


def test_a_model_without_a_tokenizer_reads_tokens_and_says_what_it_needs_for_text(tmp_path: Path) -> None:
    checkpoints.save(random_model(vocabulary_size=300), tmp_path / "model.safetensors")
    lm = load(tmp_path)
    logits, _ = lm(torch.tensor([[1, 299]]))
    assert logits.shape == (1, 2, 300)
    with pytest.raises(TokenizerError, match="does not name its tokenizer"):
        lm.generate("a")


def test_a_tokenizer_can_be_given_but_not_one_of_a_larger_model(tmp_path: Path) -> None:
    checkpoints.save(random_model(vocabulary_size=300), tmp_path / "large.safetensors")
    checkpoints.save(random_model(vocabulary_size=100), tmp_path / "small.safetensors")
    assert load(tmp_path / "large", tokenizer="bytes").tokenizer.name == "bytes"
    assert load(tmp_path / "large", tokenizer=load_tokenizer("bytes")).tokenizer.name == "bytes"
    with pytest.raises(TokenizerError, match="has 100 rows, but the tokenizer bytes needs 256"):
        load(tmp_path / "small", tokenizer="bytes")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.here"):
        load(tmp_path / "nothing.here")


def test_a_stream_that_is_dropped_half_way_leaves_no_trace() -> None:
    """Inference mode must not leak out of a generator that is not run to its end."""
    model = Scripted(b"abcdef")
    stored = StoredModel(config=model.config, weights={}, path=Path("none"), format="none", tokenizer="bytes")
    stream = Loaded(stored, model).stream("x")
    assert next(stream) == "a"
    assert not torch.is_inference_mode_enabled()


def test_texts_start_from_a_tuned_state_each_in_its_row(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    zero = model.initial_state(1)
    state = replace(zero, wkv=torch.randn(zero.wkv.shape, generator=torch.Generator().manual_seed(1)))
    checkpoints.save(model, tmp_path / "model.safetensors", state=state)
    lm, plain = load(tmp_path / "model"), load(tmp_path / "model", state="zero")
    tokens = torch.randint(29, (3, 6), generator=torch.Generator().manual_seed(0))
    logits, after = lm(tokens)
    assert not torch.allclose(logits, plain(tokens)[0], atol=1e-2)
    for row in range(3):
        torch.testing.assert_close(logits[row : row + 1], lm(tokens[row : row + 1])[0])
    torch.testing.assert_close(logits, plain(tokens, lm.initial_state(3))[0], rtol=0, atol=0)
    torch.testing.assert_close(lm(tokens, after)[0], plain(tokens, after)[0], rtol=0, atol=0)
    assert torch.equal(lm.initial_state().wkv, state.wkv)
    assert not plain.initial_state(2).wkv.any()


def test_what_is_generated_starts_from_the_tuned_state(tmp_path: Path) -> None:
    model = RWKV7(RWKV7Config(vocabulary_size=256, num_layers=2, hidden_size=16, head_size=4))
    generator = torch.Generator().manual_seed(1)
    model.initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    zero = model.initial_state(1)
    state = replace(zero, wkv=5 * torch.randn(zero.wkv.shape, generator=generator))
    checkpoints.save(model, tmp_path / "model.safetensors", tokenizer="bytes")
    checkpoints.save_state(state, model.config, tmp_path / "state.pth")
    lm = load(tmp_path / "model", state=tmp_path / "state.pth")
    pieces = [piece.token for piece in lm.pieces("Once", max_tokens=8, sampling=Sampling(temperature=0))]
    tokens, expected = torch.tensor([list(b"Once")]), []
    for _ in range(8):
        logits, state = model(tokens, state)
        expected.append(int(logits[0, -1].argmax()))
        tokens = torch.tensor([expected[-1:]])
    assert pieces == expected[: len(pieces)]  # its end-of-text token may come
    plain = load(tmp_path / "model").pieces("Once", max_tokens=8, sampling=Sampling(temperature=0))
    assert pieces != [piece.token for piece in plain]


def test_a_conversation_goes_on_in_its_history(run_folder: Path) -> None:
    lm = load(run_folder)
    history = lm.history()
    first = lm.generate("Hello", max_tokens=8, seed=1, history=history, ban=[0])
    second = "".join(lm.stream(" you", max_tokens=8, seed=1, history=history, ban=[0]))
    assert first == lm.generate("Hello", max_tokens=8, seed=1, ban=[0])
    tokens = history.tokens[:-8]
    assert lm.tokenizer.decode(tokens[:5]) == "Hello"
    assert lm.tokenizer.decode(tokens[13:]) == " you"
    pieces = lm.pieces(tokens, max_tokens=8, sampling=Sampling(seed=1, ban=[0]))
    assert second == "".join(piece.text for piece in pieces)


def test_an_answer_can_be_drawn_again_from_where_it_began(run_folder: Path) -> None:
    lm = load(run_folder)
    history = lm.history()
    history.extend(lm.tokenizer.encode("Hello"))
    end = history.keep()
    answers = []
    for seed in (1, 2, 1):
        answers.append(lm.generate("", max_tokens=20, seed=seed, top_p=1, history=history))
        history.rewind(end)
    assert answers[0] == answers[2] != answers[1]
    assert answers[0] == lm.generate("Hello", max_tokens=20, seed=1, top_p=1)


def test_a_saved_history_goes_on_in_the_same_model_alone(run_folder: Path, tmp_path: Path) -> None:
    lm = load(run_folder)
    whole = lm.generate("Once", max_tokens=30, seed=3, frequency_penalty=0.5, ban=[0])
    history = lm.history()
    text = lm.generate("Once", max_tokens=11, seed=3, frequency_penalty=0.5, ban=[0], history=history)
    lm.save_history(history, tmp_path / "text.state")
    again = load(run_folder)
    back = again.load_history(tmp_path / "text.state")
    rest = again.generate("", max_tokens=19, seed=3, frequency_penalty=0.5, ban=[0], history=back)
    tokens = back.tokens[4:]
    assert again.tokenizer.decode(tokens) == whole
    assert (text + rest).replace("\ufffd", "") == whole.replace("\ufffd", "")
    with pytest.raises(ConfigError, match="of another model than this one"):
        again.generate("", history=history)
    with pytest.raises(ConfigError, match="of another model than this one"):
        again.save_history(history, tmp_path / "text.state")
    with pytest.raises(CheckpointError, match="its dtype is float32, but this model's is bfloat16"):
        load(run_folder, dtype=torch.bfloat16).load_history(tmp_path / "text.state")


def test_a_history_begins_from_the_tuned_state_or_from_the_one_that_it_is_given(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    zero = model.initial_state(1)
    state = replace(zero, wkv=torch.randn(zero.wkv.shape, generator=torch.Generator().manual_seed(1)))
    checkpoints.save(model, tmp_path / "model.safetensors", state=state)
    lm = load(tmp_path / "model")
    tokens = [1, 2, 3]
    for history, start in ((lm.history(), None), (lm.history(zero), zero)):
        history.extend(tokens)
        logits, _ = lm(torch.tensor([tokens]), start)
        torch.testing.assert_close(history.next_logits(), logits[0, -1])


needs_native = pytest.mark.skipif(not native.levels(), reason=str(native.unavailable_reason()))


@pytest.fixture(scope="module")
def int4_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 13 million parameters, beside what it was made of."""
    tmp_path = tmp_path_factory.mktemp("int4")
    config = RWKV7Config(
        vocabulary_size=256,
        num_layers=6,
        hidden_size=512,
        head_size=64,
        decay_rank=32,
        in_context_rank=32,
        value_rank=32,
        gate_rank=32,
    )
    checkpoints.save(RWKV7(config), tmp_path / "model.safetensors", tokenizer="bytes")
    path = tmp_path / "int4.safetensors"
    checkpoints.quantize(checkpoints.open_model(tmp_path / "model.safetensors"), path, "int4")
    return path


@needs_native
@pytest.mark.parametrize("dtype", [None, "int4"])
def test_a_packed_file_is_used_in_place(int4_file: Path, dtype: Literal["int4"] | None) -> None:
    lm = load(int4_file, runtime="native", dtype=dtype)
    assert isinstance(lm.runtime, NativeModel)
    mapped = {
        matrix.data.data_ptr()
        for weight in lm.checkpoint.weights.values()
        if weight.packed
        for matrix in weight.packed.read()
    }
    used = {tensor.data_ptr() for tensor in lm.runtime._packed.tensors}
    assert len(mapped) > 60
    assert mapped <= used


@needs_native
def test_a_packed_file_says_what_a_model_says_that_is_packed_when_it_is_loaded(int4_file: Path) -> None:
    tokens = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))
    packed = load(int4_file.with_name("model.safetensors"), runtime="native", dtype="int4")
    assert torch.equal(load(int4_file, runtime="native")(tokens)[0], packed(tokens)[0])


@needs_native
def test_the_torch_module_is_loaded_when_it_is_asked_for(int4_file: Path) -> None:
    lm = load(int4_file, runtime="auto")
    assert isinstance(lm.runtime, NativeModel)
    assert "int4 in the native runtime" in repr(lm)
    assert "model" not in vars(lm)
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        logits, _ = lm.model(tokens)
    assert lm.model is lm.model
    torch.testing.assert_close(logits, load(int4_file)(tokens)[0], rtol=0, atol=0)
    assert (lm(tokens)[0] - logits).square().mean().sqrt() < 0.08 * logits.std()


@needs_native
def test_what_a_packed_file_is_asked_for_otherwise_it_is_packed_again(int4_file: Path) -> None:
    lm = load(int4_file, runtime="native", dtype=torch.float32)
    assert isinstance(lm.runtime, NativeModel)
    assert lm.runtime.format == "float32"
    tokens = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(lm(tokens)[0], load(int4_file)(tokens)[0], rtol=0, atol=1e-4)


@needs_native
def test_an_adapter_goes_on_top_of_a_packed_file(tmp_path: Path) -> None:
    model = example("7", torch.float32)
    checkpoints.save(model, tmp_path / "model.safetensors")
    source = checkpoints.open_model(tmp_path / "model.safetensors")
    checkpoints.quantize(source, tmp_path / "int8.safetensors", "int8")
    lora = saved(tmp_path / "lora.pth", random_lora(model))
    tokens = torch.tensor([[1, 2, 3]])
    native_logits, torch_logits = (
        load(tmp_path / "int8", lora=lora, lora_alpha=8, runtime=runtime)(tokens)[0]
        for runtime in ("native", "torch")
    )
    assert (native_logits - torch_logits).square().mean().sqrt() < 0.08 * torch_logits.std()


@needs_native
def test_numbers_in_a_packed_file_that_are_not_finite_end_in_an_error(
    int4_file: Path, tmp_path: Path
) -> None:
    content = bytearray(int4_file.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    begin = 8 + int.from_bytes(content[:8], "little") + header["head.weight"]["data_offsets"][0]
    content[begin : begin + 2] = b"\x80\x7f"  # infinity
    (tmp_path / "model.safetensors").write_bytes(content)
    lm = load(tmp_path, runtime="native")
    with pytest.raises(ConfigError, match="they hold NaN or infinity"):
        lm.generate("a")


# Loads a model, reads a token with it, says so, and stays until its input ends.
SHARING = """
import sys, torch, receptance
torch.set_num_threads(1)
lm = receptance.load(sys.argv[1], runtime="native")
lm(torch.tensor([[1]]))
print("ready", flush=True)
sys.stdin.read()
"""


@needs_native
@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="only Linux tells which pages are shared")
def test_two_processes_share_the_pages_of_a_packed_file(int4_file: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", SHARING, str(int4_file)], stdin=PIPE, stdout=PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            pages = mapped_pages(process.pid, int4_file)
            assert pages["Rss"] > 0.9 * int4_file.stat().st_size
            assert pages["Shared_Clean"] > 0.9 * pages["Rss"]
            assert pages["Private_Dirty"] == 0
    finally:
        for process in processes:
            process.communicate("")


def mapped_pages(pid: int, path: Path) -> dict[str, int]:
    """What the system says of the pages of a file in a process, in bytes."""
    found: Counter[str] = Counter()
    is_file = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            is_file = line.endswith(str(path))
        elif is_file and line.endswith(" kB"):
            name, size, _ = line.split()
            found[name.rstrip(":")] += 1024 * int(size)
    return found


@needs_native
def test_a_text_is_the_same_with_speculation(run_folder: Path) -> None:
    lm = load(run_folder, runtime="native", dtype="int8")
    plain = lm.generate("Once", max_tokens=30, seed=1)
    assert lm.generate("Once", max_tokens=30, seed=1, speculate="lookup") == plain
    assert "".join(lm.stream("Once", max_tokens=30, seed=1, speculate=load(run_folder))) == plain
    speculation = lm.speculation()
    lm.generate("Once" * 9, max_tokens=30, seed=1, speculate=speculation)
    assert speculation.accepted <= speculation.drafted
    with pytest.raises(ConfigError, match="'lookup' or a loaded model"):
        lm.generate("Once", speculate="look")  # type: ignore[arg-type]  # that is the point
