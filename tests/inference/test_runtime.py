from __future__ import annotations

from pathlib import Path

import pytest
import torch

import receptance
from receptance import native
from receptance.checkpoints.stored_model import StoredModel, from_module
from receptance.errors import ConfigError, KernelError
from receptance.inference.runtime import choose_runtime
from receptance.models import RWKV7
from receptance.runtimes import NativeModel
from tests.models.examples import example

needs_native = pytest.mark.skipif(not native.levels(), reason=str(native.unavailable_reason()))


def stored(dtype: torch.dtype) -> StoredModel:
    return from_module(example("7", dtype))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_native_where_that_can_serve(dtype: torch.dtype) -> None:
    runtime = choose_runtime(stored(dtype), "auto")
    assert isinstance(runtime, NativeModel)
    assert runtime.format == str(dtype).removeprefix("torch.")


def test_auto_is_torch_where_native_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float64, torch.float16):
        runtime = choose_runtime(stored(dtype), "auto")
        assert isinstance(runtime, RWKV7)
        assert runtime.dtype == dtype
    monkeypatch.setattr(native, "library", lambda: None)
    model = stored(torch.float32)
    assert isinstance(choose_runtime(model, "auto"), RWKV7)
    monkeypatch.setattr(native, "unavailable_reason", lambda: "it is not built")
    for name, integers in (("native", None), ("auto", "int4")):
        with pytest.raises(KernelError, match="it is not built"):
            choose_runtime(model, name, integers)  # type: ignore[arg-type]  # from a loop


def test_what_native_cannot_hold_is_refused_when_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="no float64"):
        choose_runtime(stored(torch.float64), "native")
    with pytest.raises(ConfigError, match="of the native runtime alone"):
        choose_runtime(stored(torch.float32), "torch", "int8")


@needs_native
def test_a_loaded_model_writes_the_same_text_in_either_runtime(shared: Path) -> None:
    path = shared / "data" / "tiny-models" / "rwkv-5.2-730K.safetensors"
    texts = [
        receptance.load(path, runtime=runtime, tokenizer="bytes").generate(
            "The ", max_tokens=80, temperature=0
        )
        for runtime in ("torch", "native")
    ]
    assert texts[0] == texts[1]


@needs_native
def test_a_loaded_model_says_in_which_runtime_it_is(shared: Path) -> None:
    path = shared / "data" / "tiny-models" / "rwkv-7.0-834K.safetensors"
    lm = receptance.load(path, dtype="int4", runtime="auto")
    assert "int4 in the native runtime" in repr(lm)
    logits, _ = lm(torch.tensor([[34, 105, 110]]))
    assert logits.shape == (1, 3, 256)
    with pytest.raises(ConfigError, match="int3"):
        receptance.load(path, dtype="int3")  # type: ignore[arg-type]  # that is the point
