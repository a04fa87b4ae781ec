"""`receptance verify`: whether a model says the same however its text is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from receptance.cli import options, terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.inference import Verification

DEFAULT_TOKENS = 128


TEXT = Parameter(
    allow_leading_hyphen=True, help="What to read; random tokens, always the same, where none is given."
)
TOKENS = Parameter(alias="-n", help=f"How many random tokens to read; {DEFAULT_TOKENS} where none is given.")
FLOAT64 = Parameter(help="Compare with a copy of the model in float64, which takes 8 bytes a parameter.")


def verify(
    model: options.Model,
    /,
    *,
    text: Annotated[str | None, TEXT] = None,
    tokens: Annotated[int | None, TOKENS] = None,
    float64: Annotated[bool, FLOAT64] = True,
    as_json: options.Json = False,
    dtype: options.Dtype = None,
    device: options.Device = "cpu",
    tokenizer: options.Tokenizer = None,
) -> int:
    """Check that a model says the same however its text is read.

    Reads a text in one parallel pass, and compares the logits and the final state with those of the same
    text read token by token, split in several ways, by each kernel that this machine has, and in float64.
    Ends with exit code 1 when a difference is beyond the tolerance of the number format.
    """
    if text is not None and tokens is not None:
        raise ConfigError(
            "--text and --tokens were both given, but there is one text to read: leave one out."
        )
    if tokens is not None and tokens < 2:
        raise ConfigError(f"--tokens is {tokens}, but it takes at least 2 tokens to split a text.")
    import torch

    from receptance import inference

    lm = options.load(model, dtype, device, tokenizer)
    if text is not None:
        ids = torch.tensor([lm.tokenizer.encode(text)], dtype=torch.long)
    else:
        seeded = torch.Generator().manual_seed(0)
        ids = torch.randint(lm.config.vocabulary_size, (1, tokens or DEFAULT_TOKENS), generator=seeded)
    verification = inference.verify(lm.model, ids, float64=float64)
    if as_json:
        terminal.print_json(_as_dict(verification))
    else:
        _print(verification)
    return 0 if verification.passed else 1


def _as_dict(verification: Verification) -> dict[str, object]:
    """Return what --json prints; NaN, which JSON does not know, as null."""
    return {
        "passed": verification.passed,
        "tokens": verification.num_tokens,
        "dtype": str(verification.dtype).removeprefix("torch."),
        "largest_logit": _finite(verification.scale),
        "tolerance": _finite(verification.tolerance),
        "differences": [
            {
                "way": difference.way,
                "logits": _finite(difference.logits),
                "state": _finite(difference.state),
                "refusal": difference.refusal,
            }
            for difference in verification.differences
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print(verification: Verification) -> None:
    dtype = str(verification.dtype).removeprefix("torch.")
    terminal.print_table(
        [f"{verification.num_tokens} tokens in parallel, beside …", "logits", "final state", ""],
        [
            (difference.way, "", "", difference.refusal)
            if difference.refusal
            else (
                difference.way,
                f"{difference.logits:.1e}",
                f"{difference.state:.1e}",
                "" if difference.largest <= verification.tolerance else "too large",
            )
            for difference in verification.differences
        ],
        numbers=("logits", "final state"),
    )
    worst = max(verification.differences, key=lambda d: (math.isnan(d.largest), d.largest)).largest
    verdict = "Passed" if verification.passed else "Failed"
    print(
        f"{verdict}: the largest difference is {worst:.1e}, and {verification.tolerance:.1e} is allowed for "
        f"{dtype} logits up to {verification.scale:.3g}."
    )
