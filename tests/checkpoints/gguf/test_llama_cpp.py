"""llama.cpp itself runs our GGUF files and gives our logits (pip install llama-cpp-python)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from receptance import checkpoints
from receptance.checkpoints import comparison
from receptance.checkpoints.load import open_model
from receptance.errors import TokenizerError
from receptance.tokenizers import load_tokenizer
from tests.checkpoints.gguf.test_model import wide

llama_cpp = pytest.importorskip("llama_cpp")

TOLERANCE = 1e-3  # of any logit, in float32; measured: 2e-5
TINY = ("rwkv-6.0-3m-dequantQ5_1", "rwkv-7.0-834K")
SIZES = {
    "small heads": {"hidden_size": 64, "head_size": 16, "num_layers": 3, "vocabulary_size": 100},
    "heads of 64": {"hidden_size": 256, "head_size": 64, "num_layers": 4, "vocabulary_size": 1000},
    "one layer": {"hidden_size": 128, "head_size": 64, "num_layers": 1, "vocabulary_size": 300},
}


def loaded(path: Path, **options: Any) -> Any:
    settings = {
        "n_ctx": 512,
        "n_batch": 64,
        "n_threads": 1,
        "n_threads_batch": 1,
        "verbose": False,
        **options,
    }
    return llama_cpp.Llama(str(path), **settings)


def logits_of_llama_cpp(path: Path, tokens: list[int], one_by_one: bool) -> Tensor:
    """Return the logits after every token, read in one batch or one at a time."""
    model = loaded(path, logits_all=True)
    try:
        for part in [[token] for token in tokens] if one_by_one else [tokens]:
            model.eval(part)
        return torch.from_numpy(np.array(model.scores[: len(tokens)])).double()
    finally:
        model.close()


def our_logits(path: Path, tokens: list[int]) -> Tensor:
    return comparison.logits(open_model(path), torch.tensor([tokens]))[0]


def text_of(shared: Path, name: str) -> list[int]:
    tokens: list[int] = np.load(shared / "data" / "tiny-models" / f"{name}.ref.npz")["tokens"].tolist()
    return tokens


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_the_tiny_models_give_the_same_logits(
    tmp_path: Path, shared: Path, name: str, one_by_one: bool, record_property: Callable[[str, object], None]
) -> None:
    source = shared / "data" / "tiny-models" / f"{name}.safetensors"
    checkpoints.convert(source, tmp_path / "a.gguf", dtype=torch.float32)
    tokens = text_of(shared, name)
    path = tmp_path / "a.gguf"
    ours, theirs = our_logits(path, tokens), logits_of_llama_cpp(path, tokens, one_by_one)
    record_property("figure", f"llama.cpp, {name}: {float((ours - theirs).abs().max()):.2g}")
    assert float((ours - theirs).abs().max()) <= TOLERANCE
    assert float(theirs.std()) > 0.3  # a comparison of nothing proves nothing


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize(
    ("generation", "size"),
    [("6", "small heads"), *((g, s) for g in "67" for s in ("heads of 64", "one layer"))],
)
def test_random_models_give_the_same_logits(
    tmp_path: Path,
    generation: str,
    size: str,
    one_by_one: bool,
    record_property: Callable[[str, object], None],
) -> None:
    model = wide(generation, **SIZES[size])
    checkpoints.save(model, tmp_path / "a.gguf", format="gguf")
    tokens = [(7919 * i) % SIZES[size]["vocabulary_size"] for i in range(100)]  # of more than one batch
    ours, theirs = (
        our_logits(tmp_path / "a.gguf", tokens),
        logits_of_llama_cpp(tmp_path / "a.gguf", tokens, one_by_one),
    )
    record_property(
        "figure", f"llama.cpp, RWKV-{generation}, {size}: {float((ours - theirs).abs().max()):.2g}"
    )
    assert float((ours - theirs).abs().max()) <= TOLERANCE
    assert float(theirs.std()) > 0.3


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "q8_0", "q4_0"])
@pytest.mark.parametrize("name", TINY)
def test_shorter_numbers_mean_nearly_the_same(
    tmp_path: Path, shared: Path, name: str, kind: str, record_property: Callable[[str, object], None]
) -> None:
    """llama.cpp shortens the activations too, to 8 or 16 bits, where the matrix is short."""
    source = shared / "data" / "tiny-models" / f"{name}.safetensors"
    options: dict[str, Any] = {"quantization": kind} if kind[0] == "q" else {"dtype": getattr(torch, kind)}
    checkpoints.convert(source, tmp_path / "a.gguf", **options)
    wide_again = checkpoints.load(tmp_path / "a.gguf", dtype=torch.float32).model
    tokens = text_of(shared, name)
    with torch.inference_mode():
        ours = wide_again(torch.tensor([tokens]))[0][0].double()
    theirs = logits_of_llama_cpp(tmp_path / "a.gguf", tokens, False)
    share = float((ours - theirs).abs().max() / ours.std())
    record_property("figure", f"llama.cpp, {name} in {kind}: {share:.2g} of the deviation")
    assert share < 0.15


@pytest.fixture(scope="module")
def model_of_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A model with the vocabulary of World."""
    try:
        load_tokenizer("world")
    except TokenizerError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("world") / "a.gguf"
    sizes = {"vocabulary_size": 65536, "hidden_size": 64, "head_size": 64, "num_layers": 1}
    checkpoints.save(wide("7", **sizes), path, format="gguf")
    model = loaded(path)
    yield model
    model.close()


@pytest.mark.parametrize(
    "text",
    [
        "User: hi\n\nAssistant:",
        "\n",
        "'\"\\'",
        "😀 你好，世界\t\r\n\x00\x7f",
        "<think>12345</think>",
        " " * 300,
    ],
)
def test_text_becomes_the_same_tokens(model_of_world: Any, text: str) -> None:
    tokens = model_of_world.tokenize(text.encode(), add_bos=False, special=False)
    assert tokens == load_tokenizer("world").encode(text)


def test_every_token_has_the_same_bytes(model_of_world: Any) -> None:
    world = load_tokenizer("world")
    vocabulary = llama_cpp.llama_model_get_vocab(model_of_world.model)
    room = ctypes.create_string_buffer(200)
    for token in range(1, 65530):
        length = llama_cpp.llama_token_to_piece(vocabulary, token, room, 200, 0, True)
        assert room.raw[:length] == world.decode_bytes([token])


def test_texts_and_turns_end_with_the_same_tokens(model_of_world: Any) -> None:
    vocabulary = llama_cpp.llama_model_get_vocab(model_of_world.model)
    assert llama_cpp.llama_vocab_eot(vocabulary) == 261
    assert (model_of_world.token_bos(), model_of_world.token_eos()) == (0, 0)
    assert llama_cpp.llama_vocab_is_eog(vocabulary, 0)
    assert llama_cpp.llama_vocab_is_eog(vocabulary, 261)


def test_the_chat_template_is_known_by_its_name(model_of_world: Any) -> None:
    template = model_of_world.metadata["tokenizer.chat_template"].encode()
    message = llama_cpp.llama_chat_message(role=b"user", content=b"hi")
    messages = (llama_cpp.llama_chat_message * 1)(message)
    room = ctypes.create_string_buffer(100)
    length = llama_cpp.llama_chat_apply_template(template, messages, 1, True, room, 100)
    assert room.raw[:length] == b"User: hi\n\nAssistant:"
