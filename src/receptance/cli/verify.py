"""`receptance verify`: whether a model says the same however its text is read, or two files are one model."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from receptance.cli import options, terminal
from receptance.errors import ConfigError

if TYPE_CHECKING:
    from receptance.checkpoints import Comparison
    from receptance.inference import Verification

DEFAULT_TOKENS = 128


TEXT = Parameter(
    allow_leading_hyphen=True, help="What to read; random tokens, always the same, where none is given."
)
TOKENS = Parameter(alias="-n", help=f"How many random tokens to read; {DEFAULT_TOKENS} where none is given.")
FLOAT64 = Parameter(help="Compare with a copy of the model in float64, which takes 8 bytes a parameter.")
AGAINST = Parameter(
    help="Another file that should be the same model, in whatever format: compare the two instead."
)
TOLERANCE = Parameter(
    help="Largest difference that passes, as a share of the largest logit; that of the coarser number format "
    "where none is given."
)


def verify(
    model: options.Model,
    /,
    *,
    text: Annotated[str | None, TEXT] = None,
    tokens: Annotated[int | None, TOKENS] = None,
    float64: Annotated[bool, FLOAT64] = True,
    against: Annotated[str | None, AGAINST] = None,
    tolerance: Annotated[float | None, TOLERANCE] = None,
    as_json: options.Json = False,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    device: options.Device = "cpu",
    tokenizer: options.Tokenizer = None,
    tuning: options.Tuning = options.NO_TUNING,
) -> int:
    """Check that a model says the same however its text is read, or that two files are one model.

    Reads a text in one parallel pass, and compares the logits and the final state with those of the same
    text read token by token, split in several ways, by each kernel that this machine has, in the native
    runtime and in float64.
    With --against, compares the settings, every weight and the logits of two files, neither of which is ever
    whole in memory. Ends with exit code 1 when a difference is beyond the tolerance of the number format.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ConfigError(
            f"--tolerance is {tolerance}, but it must be a share of the largest logit, such as 1e-4."
        )
    if against is not None:
        changes = (text, tokens, dtype, tokenizer, device, tuning)
        if changes != (None, None, None, None, "cpu", options.NO_TUNING):
            raise ConfigError(
                "--against compares two files as they are: leave out what changes how one is read."
            )
        return _compare(model, against, revision, tolerance, as_json)
    if text is not None and tokens is not None:
        raise ConfigError(
            "--text and --tokens were both given, but there is one text to read: leave one out."
        )
    if tokens is not None and tokens < 2:
        raise ConfigError(f"--tokens is {tokens}, but it takes at least 2 tokens to split a text.")
    import torch

    from receptance import inference

    lm = options.load(model, revision, dtype, device, tokenizer, tuning)
    if text is not None:
        ids = torch.tensor([lm.tokenizer.encode(text)], dtype=torch.long)
    else:
        seeded = torch.Generator().manual_seed(0)
        ids = torch.randint(lm.config.vocabulary_size, (1, tokens or DEFAULT_TOKENS), generator=seeded)
    verification = inference.verify(lm.model, ids, float64=float64, tolerance=tolerance, state=lm.tuned_state)
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


def _compare(model: str, against: str, revision: str | None, tolerance: float | None, as_json: bool) -> int:
    from receptance import checkpoints
    from receptance.inference.verification import TOLERANCES

    one, other = checkpoints.open_model(model, revision=revision), checkpoints.open_model(against)
    comparison = checkpoints.compare(one, other)
    share = tolerance if tolerance is not None else max(TOLERANCES[one.dtype], TOLERANCES[other.dtype])
    allowed = share * comparison.scale
    passed = comparison.logits <= allowed  # which NaN never is
    if as_json:
        terminal.print_json({"passed": passed, "tolerance": _finite(allowed), **_finite_dict(comparison)})
        return 0 if passed else 1
    terminal.print_facts(f"{one.description} beside {other.description}", _facts(comparison))
    verdict = "Passed" if passed else "Failed"
    print(
        f"{verdict}: the largest difference of a logit is {comparison.logits:.1e}, and {allowed:.1e} is "
        f"allowed for logits up to {comparison.scale:.3g}."
    )
    return 0 if passed else 1


def _facts(comparison: Comparison) -> dict[str, str]:
    weights = f"all {comparison.num_weights} hold the same values"
    if comparison.unequal:
        worst, difference = max(comparison.unequal.items(), key=lambda item: item[1])
        weights = (
            f"{len(comparison.unequal)} of {comparison.num_weights} differ, {worst} by up to {difference:.3g}"
        )
    settings = (f"{name} is {one} and {other}" for name, (one, other) in comparison.settings.items())
    return {
        "settings": ", ".join(settings) or "the same",
        "weights": weights,
        "next token": f"the same after {comparison.choices:.0%} of {comparison.num_tokens} tokens",
    }


def _finite_dict(comparison: Comparison) -> dict[str, object]:
    return asdict(comparison) | {
        "logits": _finite(comparison.logits),
        "scale": _finite(comparison.scale),
        "unequal": {name: _finite(difference) for name, difference in comparison.unequal.items()},
    }
