"""How far a run is, and the learning rate that follows from it: a plateau, then an exponential fall.

The published RWKV-4 models were trained this way (arxiv.org/abs/2305.13048, appendix G). What the paper calls
"warmup" is the plateau.
"""

from __future__ import annotations

from receptance.training.config import OptimizerConfig, TrainingConfig

# The rate at which a warm-up begins, as a share of the full one: that of RWKV-LM's v4neo trainer.
WARM_UP_START = 0.2


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


def learning_rate(config: OptimizerConfig, *, step: int, progress: float) -> float:
    """Return the learning rate of a step, counted from 0, after which the run has come to `progress`.

    With x the share of the way from the plateau's end to the run's end it is `start * (end / start) ** x`,
    or linear where one of the two is zero, since no power reaches zero.
    """
    start, end = config.learning_rate, config.final_learning_rate
    fall = 0.0
    if progress > config.plateau:
        fall = (progress - config.plateau) / (1 - config.plateau)
    if fall == 0.0:
        rate = start
    elif start == 0.0 or end == 0.0:
        rate = start + (end - start) * fall
    else:
        rate = start * (end / start) ** fall
    if step < config.warm_up_steps:
        rate *= WARM_UP_START + (1 - WARM_UP_START) * step / config.warm_up_steps
    return rate
