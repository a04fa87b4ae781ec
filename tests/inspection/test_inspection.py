from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from receptance import checkpoints, load, native
from receptance.errors import ConfigError
from receptance.inspection import inspect
from receptance.runtimes import NativeModel
from tests.checkpoints.tuning.test_tuned_state import random_state
from tests.inference.models import as_loaded
from tests.models.examples import EXAMPLES, example

close = torch.testing.assert_close
TEXT = torch.tensor([3, 17, 17, 0, 28, 5, 9, 11, 3, 2])


@pytest.mark.parametrize("generation", EXAMPLES)
def test_of_a_long_text_the_end_is_seen_as_in_the_whole(generation: str) -> None:
    lm = as_loaded(example(generation))
    whole, end = inspect(lm, TEXT), inspect(lm, TEXT, limit=4)
    assert (whole.num_before, end.num_before) == (0, 6)
    assert end.tokens.tolist() == TEXT[-4:].tolist()
    for name in ("divergence", "gain"):
        expected = getattr(whole.influence, name)[-5:, -4:]
        torch.testing.assert_close(getattr(end.influence, name), expected, equal_nan=True)
    torch.testing.assert_close(end.memory.norms, whole.memory.norms[-4:])
    torch.testing.assert_close(end.memory.changes, whole.memory.changes[-4:])
    torch.testing.assert_close(end.predictions.surprisals, whole.predictions.surprisals[-4:])
    rates = whole.decays.rates
    torch.testing.assert_close(end.decays.rates, rates[-4:] if whole.decays.depends_on_text else rates)


@pytest.mark.skipif(native.library() is None, reason="needs the native library")
@pytest.mark.parametrize("generation", EXAMPLES)
def test_the_native_runtime_finds_what_float64_finds(generation: str) -> None:
    model = example(generation)
    text = torch.randint(0, 29, (40,), generator=torch.Generator().manual_seed(1))
    truth = inspect(as_loaded(model), text, limit=36)
    single = example(generation, dtype=torch.float32)
    found = inspect(as_loaded(single, runtime=NativeModel.pack(single)), text, limit=36)
    for name in ("divergence", "gain"):
        expected = getattr(truth.influence, name).float()
        close(getattr(found.influence, name), expected, rtol=1e-3, atol=1e-5, equal_nan=True)
    close(found.memory.norms, truth.memory.norms.float(), rtol=1e-4, atol=1e-5)
    close(found.memory.changes, truth.memory.changes.float(), rtol=1e-4, atol=1e-5)
    close(found.predictions.surprisals, truth.predictions.surprisals.float(), rtol=1e-4, atol=1e-5)
    close(found.decays.rates, truth.decays.rates.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runtime", ["torch", "native"])
def test_a_text_begins_from_the_tuned_state_with_and_without_a_token(
    tmp_path: Path, runtime: Literal["torch", "native"]
) -> None:
    if runtime == "native" and native.library() is None:
        pytest.skip("needs the native library")
    seven = example("7")
    checkpoints.save(seven, tmp_path / "model.safetensors", state=random_state(seven))
    dtype = torch.float64 if runtime == "torch" else torch.float32
    lm = load(tmp_path / "model.safetensors", runtime=runtime, dtype=dtype)
    truth = load(tmp_path / "model.safetensors", dtype=torch.float64)

    def predicted(*tokens: int) -> torch.Tensor:
        return truth(torch.tensor([tokens]))[0][0, -1].log_softmax(-1)

    whole, without = predicted(3, 17, 17, 0, 28), predicted(3, 17, 0, 28)
    unread = truth.model(TEXT[None, :5])[0][0, -1].detach().log_softmax(-1)
    assert float((whole - unread).abs().max()) > 1e-3, "the state counts, or nothing was tested"
    found = inspect(lm, TEXT).influence.divergence[5, 1]
    bounds = {"rtol": 1e-9, "atol": 1e-12} if runtime == "torch" else {"rtol": 1e-3, "atol": 1e-5}
    close(found.double(), (whole.exp() * (whole - without)).sum(), **bounds)


@pytest.mark.parametrize(
    ("tokens", "limit", "complaint"),
    [
        (TEXT, 1, "1 tokens cannot be inspected, but 2 to 1,024 can"),
        (TEXT, 1025, "1,025 tokens cannot be inspected"),
        (TEXT[:1], 256, "at least 2 tokens, but there are 1"),
        (TEXT[:0], 256, "at least 2 tokens, but there are 0"),
        (TEXT + 20, 256, "is unknown to the model"),
    ],
)
def test_what_cannot_be_inspected_is_refused(tokens: torch.Tensor, limit: int, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        inspect(as_loaded(example("4")), tokens, limit=limit)
