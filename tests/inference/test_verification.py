"""A right model passes in every number format; a model wrong in one small thing does not."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from receptance import kernels
from receptance.errors import ConfigError, KernelError
from receptance.inference.verification import Difference, Verification, verify
from receptance.models import RWKV4, RWKV4State
from tests.inference.models import random_model
from tests.models.examples import example

TOKENS = torch.randint(256, (2, 33), generator=torch.Generator().manual_seed(0))


def by_way(verification: Verification) -> dict[str, Difference]:
    return {difference.way: difference for difference in verification.differences}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_right_model_passes_in_every_number_format(dtype: torch.dtype) -> None:
    model = random_model()
    model = model.double() if dtype == torch.float64 else model.cast_matrices(dtype)
    verification = verify(model, TOKENS)
    assert verification.passed
    assert verification.num_tokens == 66
    assert verification.dtype == dtype
    ways = set(by_way(verification))
    assert {"one token at a time", "in spans of 7 tokens", "wkv4: reference"} <= ways
    assert ("in float64" in ways) == (dtype != torch.float64)


@pytest.mark.parametrize(("generation", "operator"), [("5.2", "wkv6"), ("6", "wkv6"), ("7", "wkv7")])
def test_the_kernels_are_those_of_the_generation(generation: str, operator: str) -> None:
    verification = verify(example(generation, torch.float32).eval(), TOKENS % 29)
    assert verification.passed
    kernels_compared = {way for way in by_way(verification) if way.startswith("wkv")}
    assert kernels_compared == {f"{operator}: {name}" for name in kernels.available(operator)}


def test_the_differences_are_those_of_the_logits() -> None:
    """Against the same comparison written out by hand."""
    model = random_model()
    with torch.no_grad():
        whole, _ = model(TOKENS)
        state, steps = None, []
        for token in TOKENS.unbind(1):
            logits, state = model(token.unsqueeze(1), state)
            steps.append(logits)
    expected = float((torch.cat(steps, dim=1) - whole).abs().max())
    verification = verify(model, TOKENS)
    assert by_way(verification)["one token at a time"].logits == expected
    assert verification.scale == float(whole.abs().max())


class ForgetsAtBorders(RWKV4):
    """Loses one of the five things to remember wherever a span ends."""

    forgotten = ""

    def features(
        self, tokens: Tensor, state: RWKV4State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, RWKV4State]:
        """Read as RWKV-4 does, from a state of which one tensor is empty again."""
        if state is not None:
            tensors = state.tensors() | {
                self.forgotten: self.initial_state(len(tokens)).tensors()[self.forgotten]
            }
            state = RWKV4State(**tensors)
        return super().features(tokens, state, lengths)


@pytest.mark.parametrize("forgotten", ["time_shift", "channel_shift", "numerator", "denominator", "exponent"])
def test_a_model_that_forgets_something_at_the_border_of_a_span_fails(forgotten: str) -> None:
    right = random_model()
    wrong = ForgetsAtBorders(right.config)
    wrong.load_state_dict(right.state_dict())
    wrong.forgotten = forgotten
    verification = verify(wrong, TOKENS)
    assert not verification.passed
    differences = by_way(verification)
    for way in ("one token at a time", "split in the middle", "in spans of 7 tokens"):
        assert differences[way].logits > verification.tolerance
    assert differences["in float64"].logits <= verification.tolerance


class LosesTheFinalState(RWKV4):
    """Right but for the state that it hands back after more than one token."""

    def features(
        self, tokens: Tensor, state: RWKV4State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, RWKV4State]:
        """Hand back the sums of before a long span."""
        hidden, after = super().features(tokens, state, lengths)
        return hidden, self.initial_state(len(tokens)) if tokens.shape[1] > 16 else after


def test_a_wrong_final_state_is_seen_though_all_logits_are_right() -> None:
    right = random_model()
    wrong = LosesTheFinalState(right.config)
    wrong.load_state_dict(right.state_dict())
    verification = verify(wrong, TOKENS)
    one_by_one = by_way(verification)["one token at a time"]
    assert one_by_one.logits <= verification.tolerance < one_by_one.state
    assert not verification.passed


def test_weights_that_overflow_fail() -> None:
    model = random_model()
    with torch.no_grad():
        model.head.weight[0] = 3e38
    assert not verify(model, TOKENS).passed


def test_a_kernel_that_refuses_is_reported_and_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def use(**choice: str):  # type: ignore[no-untyped-def]  # stands in for kernels.use
        if choice.get("wkv4") == "picky":
            raise KernelError("picky: not today")
        yield

    monkeypatch.setattr(kernels, "available", lambda operator: ["reference", "picky"])
    monkeypatch.setattr(kernels, "use", use)
    verification = verify(random_model(), TOKENS)
    assert by_way(verification)["wkv4: picky"].refusal == "picky: not today"
    assert verification.passed


def test_nan_never_passes() -> None:
    difference = Difference(way="any", logits=0.0, state=math.nan)
    assert math.isnan(difference.largest)
    assert not Verification(
        num_tokens=2, dtype=torch.float32, scale=1.0, tolerance=math.inf, differences=(difference,)
    ).passed


def test_tokens_that_the_model_does_not_know_are_refused() -> None:
    with pytest.raises(ConfigError, match="Token 256 is unknown"):
        verify(random_model(), torch.tensor([[1, 256]]))


def test_a_single_token_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="at least 2 tokens, but there are 1"):
        verify(random_model(), TOKENS[:, :1])


@pytest.mark.parametrize("generation", ["6", "7"])
def test_a_text_may_start_from_a_state(generation: str) -> None:
    model = example(generation, torch.float32)
    tokens = TOKENS[:1] % 29
    _, state = model(tokens)
    verification = verify(model, tokens, state=state.detach())
    assert verification.passed
    with torch.no_grad():
        assert verification.scale == pytest.approx(float(model(tokens, state)[0].abs().max()))
