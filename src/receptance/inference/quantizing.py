"""A model in few bits: text to fit the rounding to, the rounding, and what it does to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from receptance import checkpoints
from receptance.checkpoints.packed_weights import Rounding, nearest, packed
from receptance.checkpoints.stored_model import StoredModel
from receptance.errors import ConfigError, TokenizerError
from receptance.inference.loaded import Loaded
from receptance.inference.quality import (
    GREEDY_TOKENS,
    Agreement,
    agreement,
    agreement_by_layer,
    tokens_per_second,
)
from receptance.quantization.calibration import pack_for_text
from receptance.quantization.packed import Format, PackedMatrix
from receptance.quantization.sensitivity import divergences, spare
from receptance.runtimes import NativeModel

Preset = Literal["int8", "int4", "mixed"]
Report = Callable[[str, int, int], None]
Windows = Int[Tensor, "window time"]

_WINDOW = 256
_WINDOWS_TO_FIT = 64
_WINDOWS_TO_MEASURE = 16
_SHORT_WINDOW = 64  # of those by which matrices are measured
_SHORT_WINDOWS = 128


@dataclass(frozen=True)
class Texts:
    """Windows of text that the rounding is fitted to, and others by which it is measured."""

    fitted: Windows
    measured: Windows


def texts_of(lm: Loaded, text: str | None) -> Texts:
    """Return windows of a text, the last eighth of which is for measuring; None: of what the model writes.

    Raises ConfigError when the text is too short, TokenizerError when there is no tokenizer to read it with.
    """
    if text is None:
        return Texts(_own_writing(lm, _WINDOWS_TO_FIT, seed=0), _own_writing(lm, _WINDOWS_TO_MEASURE, seed=1))
    tokens = torch.tensor(lm.tokenizer.encode(text), dtype=torch.int64)
    count = len(tokens) // _WINDOW
    if count < 2:
        raise ConfigError(
            f"The text has {len(tokens):,} tokens, but at least {2 * _WINDOW} are needed to fit the rounding "
            f"to some and to measure it by others; of a long one {_WINDOWS_TO_FIT * _WINDOW:,} are used."
        )
    windows = tokens[: count * _WINDOW].view(count, _WINDOW)
    held_back = min(max(count // 8, 1), _WINDOWS_TO_MEASURE)
    rest = windows[:-held_back]
    spread = torch.linspace(0, len(rest) - 1, min(len(rest), _WINDOWS_TO_FIT)).long()
    return Texts(rest[spread], windows[-held_back:])


@torch.no_grad()
def _own_writing(lm: Loaded, windows: int, seed: int) -> Windows:
    """Return texts that the model writes from the start, each token drawn as it finds it likely."""
    try:
        start = lm.tokenizer.end_of_text
    except TokenizerError:
        start = 0
    generator = torch.Generator().manual_seed(seed)
    written, state = [torch.full((windows, 1), start)], lm.initial_state(windows)
    for _ in range(_WINDOW - 1):
        logits, state = lm.runtime(written[-1], state)
        written.append(torch.multinomial(logits[:, 0].float().softmax(-1), 1, generator=generator))
    return torch.cat(written, dim=1)


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A model in few bits that is not yet written.

    rounding   for `checkpoints.quantize`, with the source and the formats
    predicted  divergence that int4 and int8 would cause in each matrix alone; of "mixed" only
    """

    source: StoredModel
    formats: dict[str, Format]
    rounding: Rounding
    predicted: Mapping[str, Mapping[Format, float]]

    @cached_property
    def runtime(self) -> NativeModel:
        """The model in the native runtime."""
        return NativeModel(self.model)

    @property
    def model(self) -> StoredModel:
        """The model with packed matrices."""
        return packed(self.source, self.formats, self.rounding)


def rounded(
    lm: Loaded,
    preset: Preset,
    texts: Texts,
    *,
    bits: float = 5.0,
    to_nearest: bool = False,
    report: Report = lambda stage, done, total: None,
) -> Rounded:
    """Round the wide matrices of a model so that it reads a text as alike as can be; it is not changed.

    preset      int8, int4, or mixed: int8 where it helps most, so that a number takes `bits` on average
    to_nearest  round each number for itself instead
    """
    sizes = {f"{n}.weight": p.weight.numel() for n, p in lm.model.named_modules() if isinstance(p, nn.Linear)}
    predicted: dict[str, dict[Format, float]] = {}
    if preset == "mixed":
        short = texts.fitted.reshape(-1, _SHORT_WINDOW)[:_SHORT_WINDOWS]
        predicted = divergences(lm.model, short, state=lm.tuned_state, report=report)
        formats = spare(predicted, sizes, bits)
    else:
        formats = dict.fromkeys(sizes, preset)
    rounding: Rounding = nearest
    if not to_nearest:
        matrices = pack_for_text(lm.model, texts.fitted, formats, state=lm.tuned_state, report=report)

        def rounding(name: str, matrix: Tensor, matrix_format: Format) -> PackedMatrix:
            return matrices[name] if name in matrices else nearest(name, matrix, matrix_format)

    return Rounded(source=lm.checkpoint, formats=formats, rounding=rounding, predicted=predicted)


def compared(lm: Loaded, result: Rounded, texts: Texts) -> Agreement:
    """Return how a rounded model compares with the one it was made of."""
    return agreement(lm.runtime, result.runtime, texts.measured, lm.tuned_state)


def as_report(
    lm: Loaded, result: Rounded, found: Agreement, texts: Texts, destination: StoredModel
) -> dict[str, object]:
    """Return what is known of a rounded model, for JSON: in all, for each layer and for each matrix.

    Takes the memory of the model twice over in float32.
    """
    full, after = (checkpoints.module(each.cast(torch.float32)) for each in (lm.checkpoint, result.model))
    layers = agreement_by_layer(full, after, texts.measured, lm.tuned_state)
    files = {"before": lm.checkpoint.files, "after": destination.files}

    def matrix(layer: str, name: str, error: float) -> dict[str, object]:
        whole = "head.weight" if layer == "head" else f"blocks.{layer}.{name}.weight"
        alone = result.predicted.get(whole)
        return {"format": result.formats[whole], "error": error} | (
            {"divergence_alone": alone} if alone else {}
        )

    return {
        "model": str(lm.checkpoint.path),
        "file": str(destination.path),
        "bytes": {when: sum(file.stat().st_size for file in each) for when, each in files.items()},
        "tokens_per_second": tokens_per_second({"before": lm.runtime, "after": result.runtime}),
        **asdict(found),
        "perplexity": dict(zip(("before", "after"), found.perplexity, strict=True)),
        "greedy_tokens_of": GREEDY_TOKENS,
        "layers": [
            {
                "name": layer.name,
                "divergence": layer.divergence,
                "matrices": {name: matrix(layer.name, name, error) for name, error in layer.errors.items()},
            }
            for layer in layers
        ],
    }
