"""The programs that folders of RWKV-6 and 7 are for compute the same from ours, and we from theirs.

They are not among the development dependencies but for rwkv7-hf; where one is missing its tests are skipped.
benchmarks/results/huggingface-parity.md has what they measured where all were there.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from receptance import checkpoints
from receptance.models import AnyModel
from tests.checkpoints.huggingface.folders import small_model

pytestmark = pytest.mark.filterwarnings("ignore")  # what those programs advise is out of our hands

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
NUM_TOKENS = 40  # fewer than the 64 from which fla's Triton kernels go by chunks
TINY = {"6": "rwkv-6.0-3m-dequantQ5_1", "7": "rwkv-7.0-834K"}


@pytest.fixture(scope="module")
def transformers() -> Any:
    """The package, without its progress bars."""
    module = pytest.importorskip("transformers")
    module.utils.logging.disable_progress_bar()
    return module


@pytest.fixture(scope="module")
def fla() -> Callable[..., None]:
    """What runs flash-linear-attention, in a process of its own."""
    for package in ("transformers", "triton", "fla"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (flash-linear-attention)")
    return lambda *arguments: subprocess.run(
        [sys.executable, "-m", "tests.checkpoints.huggingface.fla_peer", *map(str, arguments)],
        check=True,
        cwd=ROOT,
    )


@pytest.fixture(params=["small", "tiny"])
def size(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def model_of(generation: str, size: str, request: pytest.FixtureRequest) -> AnyModel:
    """Return a random model with heads of 64 channels, or a trained one."""
    if size == "small":
        return small_model(generation)
    shared = request.getfixturevalue("shared")
    path = shared / "data" / "tiny-models" / f"{TINY[generation]}.safetensors"
    return checkpoints.load(path, dtype=torch.float32).model


def tokens_for(model: AnyModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocabulary_size, (1, NUM_TOKENS), generator=generator)


def loaded(build: Any, folder: Path) -> Any:
    """Return a program's model of a folder, every weight of which it took."""
    model, report = build.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert float((ours - theirs).abs().max()) <= TOLERANCE


def assert_same_memory(ours: Tensor, theirs: Tensor) -> None:
    """Hold sums over the whole past to each other, which may be large."""
    assert_close(ours / ours.abs().max(), theirs / ours.abs().max())


@torch.inference_mode()
def compare(ours: AnyModel, theirs: Any, cache: str) -> tuple[Any, Any]:
    """Hold the logits to each other, of a sequence and token by token; return both states after the first."""
    tokens = tokens_for(ours)
    logits, state = ours(tokens)
    assert float(logits.std()) > 0.3  # a comparison of nothing proves nothing
    whole = theirs(tokens, use_cache=True)
    assert_close(logits, whole.logits)
    after = None
    for position in range(NUM_TOKENS):
        one = theirs(tokens[:, position : position + 1], use_cache=True, **{cache: after})
        after = getattr(one, cache)
        assert_close(logits[:, position], one.logits[:, 0])
    return state, getattr(whole, cache)


def test_rwkv7_hf_gives_the_same_logits_and_states(
    tmp_path: Path, transformers: Any, size: str, request: pytest.FixtureRequest
) -> None:
    rwkv7_hf = pytest.importorskip("rwkv7_hf.modeling_rwkv7")
    model = model_of("7", size, request)
    checkpoints.save(model, tmp_path / "hf", format="transformers")
    state, cache = compare(model, loaded(rwkv7_hf.RWKV7ForCausalLM, tmp_path / "hf"), "past_key_values")
    assert_same_memory(state.wkv, torch.stack(cache.recurrent_state).mT)  # [key, value] there
    assert_close(state.time_shift, torch.stack(cache.attention_shift))
    assert_close(state.channel_shift, torch.stack(cache.ffn_shift))


def test_rwkv7_hf_saves_what_we_read(tmp_path: Path, transformers: Any) -> None:
    rwkv7_hf = pytest.importorskip("rwkv7_hf.modeling_rwkv7")
    config = rwkv7_hf.RWKV7Config(vocab_size=53, hidden_size=96, num_hidden_layers=3, head_dim=32)
    theirs = rwkv7_hf.RWKV7ForCausalLM(config)
    disturb(theirs)
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="100KB")
    checkpoint = checkpoints.load(tmp_path / "hf")
    assert len(checkpoint.files) > 1
    assert checkpoint.model.config.group_norm_epsilon == 32e-5
    compare(checkpoint.model, theirs.eval(), "past_key_values")


@torch.inference_mode()
def compare_with_fla(fla: Callable[..., None], ours: AnyModel, folder: Path) -> None:
    result = folder.with_suffix(".safetensors")
    save_file({"tokens": tokens_for(ours)}, result)
    fla("run", folder, result)
    theirs = load_file(result)
    logits, state = ours(tokens_for(ours))
    assert_close(logits, theirs["logits"])
    assert_close(logits[:, : theirs["steps"].shape[1]], theirs["steps"])
    is_value_first = ours.config.generation == "7"
    assert_same_memory(state.wkv, theirs["wkv"].mT if is_value_first else theirs["wkv"])
    assert_close(state.time_shift, theirs["time_shift"])
    assert_close(state.channel_shift, theirs["channel_shift"])


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["6", "7"])
def test_flash_linear_attention_gives_the_same_logits_and_states(
    tmp_path: Path, fla: Callable[..., None], generation: str, size: str, request: pytest.FixtureRequest
) -> None:
    model = model_of(generation, size, request)
    checkpoints.save(model, tmp_path / "fla", format="transformers")
    compare_with_fla(fla, model, tmp_path / "fla")


@pytest.mark.slow
@pytest.mark.parametrize(("generation", "epsilon"), [("6", 1e-5), ("7", 32e-5)])
def test_flash_linear_attention_saves_what_we_read(
    tmp_path: Path, fla: Callable[..., None], generation: str, epsilon: float
) -> None:
    fla("make", generation, tmp_path / "fla")
    checkpoint = checkpoints.load(tmp_path / "fla")
    assert len(checkpoint.files) > 1
    assert checkpoint.model.config.group_norm_epsilon == epsilon
    compare_with_fla(fla, checkpoint.model, tmp_path / "fla")


def test_transformers_gives_the_same_logits_from_the_native_layout(
    tmp_path: Path, transformers: Any, size: str, request: pytest.FixtureRequest
) -> None:
    if importlib.util.find_spec("transformers.models.rwkv7") is None:
        pytest.skip(f"transformers {transformers.__version__} has no rwkv7 yet")
    model = model_of("7", size, request)
    checkpoints.save(model, tmp_path / "native", format="transformers-native")
    compare(model, loaded(transformers.AutoModelForCausalLM, tmp_path / "native"), "state")


def disturb(model: torch.nn.Module) -> None:
    """Change all parameters, so that none is zero, one or equal to another."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
