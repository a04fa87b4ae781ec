"""How far a run is, and the learning rate that follows from it: a rise, a plateau, a fall.

The published RWKV-4 models fall exponentially (arxiv.org/abs/2305.13048, appendix G; what the paper calls
"warmup" is the plateau), RWKV-5 to 7 along a cosine (arxiv.org/abs/2404.05892, 2503.14456).
"""

from __future__ import annotations

import math

from receptance.training.config import OptimizerConfig, TrainingConfig


def progress(bounds: TrainingConfig, *, steps: int, tokens: int, seconds: float) -> float:
    """Return how much of the run these are, from 0 to 1: the nearest of the given bounds counts."""
    done = 0.0
    if bounds.max_steps:
        done = max(done, steps / bounds.max_steps)
    if bounds.max_tokens:
        done = max(done, tokens / bounds.max_tokens)
    if bounds.max_minutes:
        done = max(done, seconds / (60 * bounds.max_minutes))
    return min(done, 1.0)


def learning_rate(config: OptimizerConfig, *, progress: float, warm_up: float = 1.0) -> float:
    """Return the learning rate where its schedule has come to `progress`, from 0 to 1.

    warm_up  share of the warm-up that lay behind the step

    With x the share of the way from the plateau's end it is `start * (end / start) ** x` if exponential,
    `end + (start - end) * f(x)` otherwise.
    """
    fall = 0.0
    if progress > config.plateau:
        fall = (progress - config.plateau) / (1 - config.plateau)
    rate = _fallen(config, fall)
    if warm_up < 1.0:
        rate *= config.warm_up_start + (1 - config.warm_up_start) * warm_up
    return rate


def _fallen(config: OptimizerConfig, fall: float) -> float:
    """Return the learning rate at a share of its way down."""
    start, end = config.learning_rate, config.final_learning_rate
    if config.schedule == "exponential" and start and end:
        return start * math.pow(end / start, fall)
    if config.schedule == "cosine":
        kept = 0.5 + 0.5 * math.cos(math.pi * fall)
    elif config.schedule == "square_root":
        kept = 1 - math.sqrt(fall)
    else:  # linear; so is an exponential fall to or from zero, which no power reaches
        kept = 1 - fall
    return end + (start - end) * kept
