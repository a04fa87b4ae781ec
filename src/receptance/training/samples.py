"""Texts that a model writes while it is trained, for whoever wants to see more than a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from receptance.inference import Sampling, generate
from receptance.models import AnyModel
from receptance.tokenizers import Tokenizer
from receptance.training.config import SamplesConfig


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt, and how the model went on."""

    prompt: str
    text: str


@torch.no_grad()
def write_samples(
    model: AnyModel, tokenizer: Tokenizer, config: SamplesConfig, seed: int
) -> tuple[Sample, ...]:
    """Let a model continue each prompt of a recipe; the same weights and seed write the same."""
    sampling = Sampling(temperature=config.temperature, top_p=config.top_p, seed=seed)
    samples = []
    for prompt in config.prompts:
        tokens = tokenizer.encode(prompt)
        pieces = generate(model, tokenizer, tokens, max_tokens=config.max_tokens, sampling=sampling)
        samples.append(Sample(prompt=prompt, text="".join(piece.text for piece in pieces)))
    return tuple(samples)
