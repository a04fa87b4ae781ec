"""What drawing a token of 65,536 costs on one core: `python -m benchmarks.sampling`.

Beside it are the sampler of the package `rwkv` and the processors of transformers with a draw, where they are
installed. The logits are like a language model's (a few hundred tokens stand out) or flat like a new model's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.report import add_output, line, milliseconds, publish, setting
from receptance.inference import Sampling, sample
from receptance.inference.timing import Run, take_turns

VOCABULARY = 65_536
TURNS = 20
SETTINGS: tuple[dict[str, Any], ...] = (  # Any: fields of Sampling
    {"top_p": 1.0},
    {"top_p": 0.85},
    {"top_p": 0.85, "temperature": 0.8},
    {"top_p": 0.85, "temperature": 0.8, "temperature_first": True},
    {"top_p": 0.5, "top_k": 100},
    {"top_p": 1.0, "min_p": 0.05},
    {"top_p": 0.85, "typical_p": 0.9},
)


def logits() -> dict[str, torch.Tensor]:
    """Return what is drawn from."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(VOCABULARY, generator=generator) * 2
    peaked = torch.randn(VOCABULARY, generator=generator) * 2.5 - 4
    likely = torch.randperm(VOCABULARY, generator=generator)[:200]
    peaked[likely] += 14 * torch.rand(200, generator=generator)
    return {"like a model's": peaked, "flat": flat}


def cases(row: torch.Tensor, settings: dict[str, Any]) -> Iterator[tuple[str, Run]]:
    """Yield what draws with these settings."""
    sampling = Sampling(seed=1, **settings)
    yield "receptance", lambda: sample(row, sampling, 0.3)
    if not settings.keys() - {"temperature", "top_p", "top_k"}:
        try:
            from rwkv.utils import PIPELINE  # type: ignore[import-untyped]  # a package without types
        except ImportError:
            pass
        else:
            yield "rwkv", lambda: PIPELINE.sample_logits(None, row, **settings)
    if sampling.temperature_first or sampling.temperature == 1:
        try:
            from transformers.generation import logits_process
        except ImportError:
            return
        warpers = {
            "top_k": logits_process.TopKLogitsWarper,
            "top_p": logits_process.TopPLogitsWarper,
            "min_p": logits_process.MinPLogitsWarper,
            "typical_p": logits_process.TypicalLogitsWarper,
        }
        chain: list[logits_process.LogitsProcessor] = [
            logits_process.TemperatureLogitsWarper(sampling.temperature)
        ]
        chain += [made(settings[name]) for name, made in warpers.items() if settings.get(name, 1) != 1]

        def by_transformers() -> torch.Tensor:
            scores = row[None]
            for process in chain:
                scores = process(None, scores)
            return torch.multinomial(scores.softmax(-1), 1)

        yield "transformers", by_transformers


def report() -> Iterator[str]:
    """Yield best and median milliseconds."""
    torch.set_num_threads(1)
    yield from setting("sampling", threads=1)
    yield ""
    yield line("logits", "settings", "by", "best ms", "median ms")
    yield line("---", "---", "---", "---:", "---:")
    for name, row in logits().items():
        for settings in SETTINGS:
            said = ", ".join(f"{key} {value}" for key, value in settings.items())
            for by, taken in take_turns(dict(cases(row, settings)), TURNS).items():
                yield line(name, said, by, *milliseconds(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_output(parser)
    publish("Drawing a token", report(), parser.parse_args().output)


if __name__ == "__main__":
    main()
