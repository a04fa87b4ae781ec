"""An inspection as what JSON can hold: all its figures, with the text of the tokens."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from receptance.inference import Loaded
from receptance.inspection.inspection import Inspection
from receptance.runtimes import NativeModel
from receptance.tokenizers import Tokenizer

# Any: what JSON holds.
Report = dict[str, Any]

_DIGITS = 5


def as_report(inspection: Inspection, lm: Loaded, name: str) -> Report:
    """Return everything that an inspection found, in nats and tokens, to five digits.

    What is not there, such as the prediction of the first token, is null. Predictions have a row for each
    token and one for the token after the text; row j of the influences has a number for each token before j.

    name  what to call the model
    """
    config, tokenizer = lm.config, lm.tokenizer
    predictions, influence = inspection.predictions, inspection.influence
    return {
        "model": {
            "name": name,
            "generation": getattr(config, "version", config.generation),
            "layers": config.num_layers,
            "heads": getattr(config, "num_heads", 1),
            "hidden_size": config.hidden_size,
            "vocabulary_size": config.vocabulary_size,
            "parameters": lm.checkpoint.num_parameters,
            "dtype": _number_format(lm),
        },
        "summary": _summary(inspection),
        "tokens_before": inspection.num_before,
        "tokens": [{"id": token, "text": shown(token, tokenizer)} for token in inspection.tokens.tolist()],
        "predictions": {
            "surprisal": _numbers(predictions.surprisals),
            "rank": _ranks(inspection),
            "likeliest": _likeliest(inspection, tokenizer),
        },
        "influence": {
            "divergence": [_numbers(row[:j]) for j, row in enumerate(influence.divergence)],
            "gain": [_numbers(row[:j]) for j, row in enumerate(influence.gain[:-1])],
            "divergence_by_distance": _numbers(influence.by_distance),
        },
        "memory": {
            "norm": _numbers(inspection.memory.norms.permute(1, 2, 0)),
            "change": _numbers(inspection.memory.changes.permute(1, 2, 0)),
        },
        "half_lives": _half_lives(inspection),
    }


def shown(token: int, tokenizer: Tokenizer) -> str:
    """Return the text of a token, with escapes for bytes that are not text; its id where it has none."""
    # A model may have more rows than its tokenizer has ids.
    content = tokenizer.decode_bytes((token,)) if token < tokenizer.vocabulary_size else b""
    return content.decode("utf-8", errors="backslashreplace") or f"⟨{token}⟩"


def _number_format(lm: Loaded) -> str:
    if isinstance(lm.runtime, NativeModel):
        return lm.runtime.format
    return str(lm.runtime.dtype).removeprefix("torch.")


def _summary(inspection: Inspection) -> dict[str, object]:
    """Return the few numbers to begin with."""
    bits = float(inspection.predictions.surprisals.double().nanmean()) / math.log(2)
    return {
        "bits_per_token": _number(bits),
        "tokens_back_for_half_of_all_influence": inspection.influence.reach(0.5),
        "tokens_back_for_nine_tenths_of_all_influence": inspection.influence.reach(0.9),
        "slowest_half_life": _number(float(inspection.decays.half_lives.max())),
    }


def _ranks(inspection: Inspection) -> list[int | None]:
    first, *others = inspection.predictions.ranks.tolist()
    return [first or None, *others]  # nothing is as likely as what has no prediction


def _likeliest(inspection: Inspection, tokenizer: Tokenizer) -> list[list[dict[str, object]] | None]:
    ids, values = inspection.predictions.likeliest()
    rows: list[list[dict[str, object]] | None] = [
        [
            {"id": token, "text": shown(token, tokenizer), "probability": _number(math.exp(value))}
            for token, value in zip(*row, strict=True)
        ]
        for row in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    return rows if inspection.num_before else [None, *rows[1:]]


def _half_lives(inspection: Inspection) -> Report:
    """Return the half-lives, `[layer][head][channel]`, and how they spread."""
    decays = inspection.decays
    edges, shares = decays.distribution()
    low, middle, high = map(_numbers, decays.percentiles)
    return {
        "depends_on_text": decays.depends_on_text,
        "over_text": _numbers(decays.half_lives),
        **({"percentile_10": low, "median": middle, "percentile_90": high} if decays.depends_on_text else {}),
        "distribution": {"edges": _numbers(edges), "shares": _numbers(shares)},
    }


# Any: lists of lists, as deep as the tensor has axes.
def _numbers(tensor: Tensor) -> Any:
    if tensor.ndim > 1:
        return [_numbers(part) for part in tensor]
    return [_number(value) for value in tensor.tolist()]


def _number(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
