"""What a step of AdamW is given, whatever computes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """What a step reads and writes of one parameter: tensors of one shape, on one device.

    `master`, `exp_avg` (the mean of the gradients) and `exp_avg_sq` (of their squares) are float32, and
    `step` is a float32 scalar that counts. `weight` is the master itself, or its copy in another number
    format. The gradient may be in that of either.
    """

    weight: Tensor
    master: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How far to step: the symbols of AdamW, and what the gradients are to be multiplied by before."""

    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    epsilon: float
    gradient_scale: float = 1.0
