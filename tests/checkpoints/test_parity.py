"""The programs that people use today compute the same from the same files, in both directions."""

from __future__ import annotations

import copy
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import receptance
from receptance import checkpoints
from receptance.checkpoints.writers import FormatName
from receptance.models import AnyModel
from tests.checkpoints.files import assert_same_weights, official, random_model, random_tokens
from tests.models.examples import example

TOLERANCE = 1e-5
SIZES: tuple[dict[str, int], ...] = (
    {"num_layers": 2},
    {"num_layers": 8, "hidden_size": 64, "vocabulary_size": 277},
    {"num_layers": 3, "hidden_size": 24, "feed_forward_size": 40},
)


@pytest.fixture(scope="module")
def pip_model() -> Iterator[Callable[[Path], Any]]:
    """What builds a model of the PyPI package `rwkv` from a .pth file."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RWKV_JIT_ON", "0")  # read when it is imported and whenever it runs
        environment.setenv("RWKV_CUDA_ON", "0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rwkv = pytest.importorskip("rwkv.model")
        yield lambda path: rwkv.RWKV(model=str(path.with_suffix("")), strategy="cpu fp32", verbose=False)


@pytest.fixture(scope="module")
def transformers() -> Any:
    """The package, without its progress bars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers")
        module.RwkvForCausalLM  # noqa: B018 - imported when it is first named
    module.utils.logging.disable_progress_bar()
    return module


def logits_of(model: AnyModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(tokens)[0]
        return logits[0]


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert float((ours - theirs).abs().max()) <= TOLERANCE
    assert float(theirs.std()) > 0.3  # a comparison of nothing proves nothing


def logits_in_train_mode(theirs: Any, tokens: Tensor) -> Tensor:
    """Return the logits of transformers; in eval mode it would divide its weights in place."""
    with torch.no_grad():
        logits: Tensor = theirs.train()(tokens, use_cache=False).logits
        return logits[0]


@pytest.mark.parametrize("sizes", [{"num_layers": 1}, *SIZES], ids=str)
@pytest.mark.parametrize("writer", ["blinkdl", "receptance"])
def test_the_pip_package_gives_the_same_logits(
    tmp_path: Path, pip_model: Callable[[Path], Any], sizes: dict[str, int], writer: str
) -> None:
    model = random_model(**sizes)
    path = tmp_path / "model.pth"
    if writer == "blinkdl":
        torch.save(official(model), path)
    else:
        checkpoints.save(model, path, format="pth")
    tokens = random_tokens(model, 50)
    ours = logits_of(checkpoints.load(path).model, tokens)
    theirs = pip_model(path)
    as_sequence, _ = theirs.forward(tokens[0].tolist(), None, full_output=True)
    assert_close(ours, as_sequence)
    state = None
    for position, token in enumerate(tokens[0].tolist()):
        one_by_one, state = theirs.forward([token], state)
        assert_close(ours[position], one_by_one)


@pytest.fixture(scope="module")
def pip_model_of_rwkv7() -> Iterator[Callable[[Path], Any]]:
    """The same for RWKV-7, for which the package is another one, as it is imported."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (("RWKV_JIT_ON", "0"), ("RWKV_CUDA_ON", "0"), ("RWKV_V7_ON", "1")):
            environment.setenv(name, value)
        place = importlib.util.find_spec("rwkv.model")
        if place is None or place.origin is None:
            pytest.skip("the package rwkv is missing")
        spec = importlib.util.spec_from_file_location("rwkv7_model", place.origin)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
        yield lambda path: module.RWKV(model=str(path.with_suffix("")), strategy="cpu fp32")


@pytest.mark.parametrize("generation", ["5.0", "5.1", "5.2", "6", "7"])
def test_the_pip_package_gives_the_same_logits_and_state_in_every_generation(
    tmp_path: Path,
    pip_model: Callable[[Path], Any],
    pip_model_of_rwkv7: Callable[[Path], Any],
    generation: str,
) -> None:
    model = example(generation, torch.float32)
    checkpoints.save(model, tmp_path / "model.pth", format="pth")
    read_back = checkpoints.load(tmp_path / "model.pth").model
    assert_same_weights(read_back, model)
    tokens = random_tokens(model, 50)
    with torch.no_grad():
        logits, state = read_back(tokens)
    theirs = (pip_model_of_rwkv7 if generation == "7" else pip_model)(tmp_path / "model.pth")
    as_sequence, after = theirs.forward(tokens[0].tolist(), None, full_output=True)
    assert_close(logits[0], as_sequence)
    for layer in range(model.config.num_layers):
        ours = (state.time_shift, state.wkv, state.channel_shift)
        for tensor, expected in zip(ours, after[3 * layer : 3 * layer + 3], strict=True):
            torch.testing.assert_close(tensor[layer, 0], expected.detach(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("generation", ["5.0", "5.1", "5.2", "6", "7"])
def test_the_pip_package_starts_from_the_same_tuned_state(
    tmp_path: Path,
    pip_model: Callable[[Path], Any],
    pip_model_of_rwkv7: Callable[[Path], Any],
    generation: str,
) -> None:
    model = example(generation, torch.float32)
    heads, size, layers = model.config.num_heads, model.config.head_size, range(model.config.num_layers)
    generator = torch.Generator().manual_seed(4)
    tuned = {
        f"blocks.{layer}.att.time_state": torch.randn(heads, size, size, generator=generator)
        for layer in layers
    }
    checkpoints.save(model, tmp_path / "plain.pth", format="pth")
    plain = torch.load(tmp_path / "plain.pth", weights_only=True)
    torch.save(plain | tuned, tmp_path / "model.pth")
    if generation == "7":  # the package does not look for it in the file
        theirs, nothing = pip_model_of_rwkv7(tmp_path / "plain.pth"), torch.zeros(model.config.hidden_size)
        start = [
            part
            for layer in layers
            for part in (nothing.clone(), tuned[f"blocks.{layer}.att.time_state"], nothing.clone())
        ]
    else:
        theirs, start = pip_model(tmp_path / "model.pth"), None
    lm = receptance.load(tmp_path / "model.pth")
    tokens = random_tokens(model, 8)
    expected, _ = theirs.forward(tokens[0].tolist(), copy.deepcopy(start), full_output=True)
    first, _ = theirs.forward(tokens[0, :1].tolist(), copy.deepcopy(start))
    logits = lm(tokens)[0][0]
    assert_close(logits, expected)
    assert_close(logits[0], first)
    without = receptance.load(tmp_path / "model.pth", state="zero")(tokens)[0][0]
    assert float((without - logits)[0].abs().max()) > 0.1


def test_the_pip_package_ends_in_the_same_state(tmp_path: Path, pip_model: Callable[[Path], Any]) -> None:
    model = random_model(num_layers=3)
    checkpoints.save(model, tmp_path / "model.pth", format="pth")
    tokens = random_tokens(model, 30)
    with torch.no_grad():
        _, ours = checkpoints.load(tmp_path / "model.pth").model(tokens)
    _, theirs = pip_model(tmp_path / "model.pth").forward(tokens[0].tolist(), None)
    for layer in range(3):
        time_shift, numerator, denominator, exponent, channel_shift = theirs[5 * layer : 5 * layer + 5]
        scale = (ours.exponent[layer, 0] - exponent).exp()
        pairs = (
            (ours.time_shift, 1, time_shift),
            (ours.numerator, scale, numerator),
            (ours.denominator, scale, denominator),
            (ours.channel_shift, 1, channel_shift),
        )
        for tensor, factor, expected in pairs:
            torch.testing.assert_close(tensor[layer, 0] * factor, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_transformers_reads_our_folder_and_gives_the_same_logits(
    tmp_path: Path, transformers: Any, sizes: dict[str, int]
) -> None:
    model = random_model(**sizes, layer_norm_epsilon=1e-6)
    checkpoints.save(model, tmp_path / "hf", format="transformers")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.eos_token_id == 0
    tokens = random_tokens(model, 40)
    ours = logits_of(model, tokens)
    assert_close(ours, logits_in_train_mode(theirs, tokens))
    # Our config tells it not to divide its weights, so eval mode is as exact.
    with torch.no_grad():
        assert_close(ours, theirs.eval()(tokens).logits[0])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_we_read_what_transformers_saves_and_give_the_same_logits(
    tmp_path: Path, transformers: Any, sizes: dict[str, int]
) -> None:
    theirs = transformers.RwkvForCausalLM(
        transformers.RwkvConfig(
            vocab_size=sizes.get("vocabulary_size", 31),
            num_hidden_layers=sizes["num_layers"],
            hidden_size=sizes.get("hidden_size", 24),
            intermediate_size=sizes.get("feed_forward_size"),
            layer_norm_epsilon=1e-6,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="40KB")
    assert len(checkpoints.load(tmp_path / "parts").files) > 1
    ours = checkpoints.load(tmp_path / "whole").model
    tokens = random_tokens(ours, 40)
    assert_close(logits_of(ours, tokens), logits_in_train_mode(theirs, tokens))
    assert_same_weights(ours, checkpoints.load(tmp_path / "parts").model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_transformers_takes_the_dtype_from_our_folder(
    tmp_path: Path, transformers: Any, dtype: torch.dtype
) -> None:
    checkpoints.save(random_model().cast_matrices(dtype), tmp_path / "hf", format="transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert theirs.dtype == dtype
    rescale_every = json.loads((tmp_path / "hf" / "config.json").read_text())["rescale_every"]
    assert rescale_every == (6 if dtype == torch.float16 else 0)


def test_a_model_goes_to_transformers_and_back_bit_by_bit(tmp_path: Path, transformers: Any) -> None:
    model = random_model(num_layers=8)
    checkpoints.save(model, tmp_path / "ours", format="transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs(random_tokens(model, 5))  # in eval mode; by our config it does not divide what it then saves
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same_weights(checkpoints.load(tmp_path / "theirs").model, model)


@pytest.mark.parametrize("format_name", ["receptance", "pth", "transformers"])
def test_the_trained_model_keeps_its_logits_in_every_format(
    tmp_path: Path, shared: Path, format_name: FormatName
) -> None:
    original = checkpoints.load(shared / "data" / "tiny-models" / "rwkv-4.0-660K").model
    checkpoints.save(original, tmp_path / "model", format=format_name)
    tokens = torch.tensor([list(b"once upon a time")])
    copy = checkpoints.load(tmp_path / "model").model
    assert_same_weights(copy, original)
    assert_close(logits_of(copy, tokens), logits_of(original, tokens))
