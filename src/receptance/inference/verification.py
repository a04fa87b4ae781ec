"""Whether a model says the same however its text is read: in parallel, as an RNN, split, by any code.

One parallel pass over the whole text is what everything else is compared with. A final state is compared by
what it does: every way ends by reading the first tokens of the text once more from the state it has reached,
so a state may be written down differently as long as it means the same.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor

from receptance import kernels
from receptance.errors import ConfigError, KernelError
from receptance.inference.reading import require_known
from receptance.models import AnyModel, State
from receptance.quantization.packed import Format
from receptance.runtimes import NativeModel

# Allowed differences, as a share of the largest logit. Random models of 24 layers show 2e-6 in float32 and,
# beside float64, 2e-2 in bfloat16; trained ones, with their few large channels, need some room above that.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

# Tokens read from the final state, to see what it does.
PROBE = 16


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one way of reading the text is from one parallel pass.

    logits   largest absolute difference over the text
    state    the same over the tokens that are read from the final state
    refusal  why the text cannot be read in this way, or None
    """

    way: str
    logits: float = 0.0
    state: float = 0.0
    refusal: str | None = None

    @property
    def largest(self) -> float:
        """The larger of the two; NaN if either is."""
        return max(self.logits, self.state, key=lambda value: (math.isnan(value), value))


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All differences of a model, and how large they may be.

    scale      largest absolute logit of the parallel pass
    tolerance  largest difference that passes: a share of the scale that depends on the number format
    """

    num_tokens: int
    dtype: torch.dtype
    scale: float
    tolerance: float
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether every difference is within the tolerance, which NaN never is."""
        return all(difference.largest <= self.tolerance for difference in self.differences)


@torch.inference_mode()
def verify(
    model: AnyModel,
    tokens: Int[Tensor, "batch time"],
    *,
    float64: bool = True,
    tolerance: float | None = None,
    state: State | None = None,
) -> Verification:
    """Read the tokens in every way there is, and compare the logits and the final states.

    float64    whether to compare with a copy of the model in float64 too, which takes 8 bytes a parameter
    tolerance  share of the largest logit that passes; None takes that of the number format
    state      what the model remembers before the text, a batch of one

    Raises ConfigError when a token is unknown to the model, or there are fewer than two: nothing to split.
    """
    time = tokens.shape[1]
    if time < 2:
        raise ConfigError(f"A model is verified with at least 2 tokens, but there are {time}.")
    require_known(tokens, model.config.vocabulary_size)
    tokens = tokens.to(model.device)
    expected = _read(model, tokens, [time], state)
    differences = []
    for way, spans, choice in _ways(model, time):
        try:
            with kernels.use(**choice):
                differences.append(_difference(way, _read(model, tokens, spans, state), expected))
        except KernelError as error:
            differences.append(Difference(way=way, refusal=str(error)))
    differences.extend(_native_differences(model, tokens, state, expected))
    if float64 and model.dtype != torch.float64:
        oracle = copy.deepcopy(model).double()
        start = None if state is None else state.map(Tensor.double)
        differences.append(_difference("in float64", _read(oracle, tokens, [time], start), expected))
    scale = float(expected[0].abs().max())
    return Verification(
        num_tokens=tokens.numel(),
        dtype=model.dtype,
        scale=scale,
        tolerance=(TOLERANCES[model.dtype] if tolerance is None else tolerance) * scale,
        differences=tuple(differences),
    )


def _native_differences(
    model: AnyModel, tokens: Int[Tensor, "batch time"], state: State | None, expected: tuple[Tensor, Tensor]
) -> list[Difference]:
    """Read the text in the native runtime too, with a packed copy of the weights in their number format."""
    time, way = tokens.shape[1], "native runtime"
    try:
        packed = NativeModel.pack(model, cast(Format, str(model.dtype).removeprefix("torch.")))
    except (KernelError, ConfigError) as error:
        return [Difference(way=way, refusal=str(error))]
    return [
        _difference(name, _read(packed, tokens, spans, state), expected)
        for name, spans in ((way, [time]), (f"{way}, one token at a time", [1] * time))
    ]


def _ways(model: AnyModel, time: int) -> list[tuple[str, list[int], dict[str, str]]]:
    """List the ways of reading a text: name, lengths of the spans, and the kernels to use."""
    sevens = [min(7, time - start) for start in range(0, time, 7)]
    operator = model.config.operator
    return [
        ("one token at a time", [1] * time, {}),
        ("split after the first token", [1, time - 1], {}),
        ("split in the middle", [time // 2, time - time // 2], {}),
        ("in spans of 7 tokens", sevens, {}),
        *((f"{operator}: {kernel}", [time], {operator: kernel}) for kernel in kernels.available(operator)),
    ]


def _read(
    model: AnyModel | NativeModel, tokens: Int[Tensor, "batch time"], spans: list[int], state: State | None
) -> tuple[Tensor, Tensor]:
    """Return the logits over the text, and those of its first tokens read once more from the final state."""
    parts = []
    for part in torch.split(tokens, spans, dim=1):
        logits, state = model(part, state)
        parts.append(logits)
    after, _ = model(tokens[:, :PROBE], state)
    return torch.cat(parts, dim=1).double(), after.double()


def _difference(way: str, outcome: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> Difference:
    logits, state = (float((a - b).abs().max()) for a, b in zip(outcome, expected, strict=True))
    return Difference(way=way, logits=logits, state=state)
