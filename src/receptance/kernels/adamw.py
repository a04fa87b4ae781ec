"""A step of AdamW: parameters, what is remembered of them, and their rounded copies, all in place.

The implementations: `native` (compiled, for the CPU), which passes over memory once, `torch` (any device),
`reference`. All compute in float32, and differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.optim.adamw import adamw as adamw_of_torch

from receptance import native
from receptance.kernels import adamw_native
from receptance.kernels.adamw_arguments import Parameter, Rates
from receptance.kernels.dispatch import Implementation, Operator


@torch.no_grad()
def reference(parameters: Sequence[Parameter], rates: Rates) -> None:
    """Step by the formula (arxiv.org/abs/1711.05101, algorithm 2)."""
    beta1, beta2 = rates.betas
    for each in parameters:
        each.step.add_(1)
        step, gradient = float(each.step), each.gradient.float() * rates.gradient_scale
        each.exp_avg.mul_(beta1).add_(gradient, alpha=1 - beta1)
        each.exp_avg_sq.mul_(beta2).add_(gradient * gradient, alpha=1 - beta2)
        root = (each.exp_avg_sq / (1 - beta2**step)).sqrt()
        change = each.exp_avg / (1 - beta1**step) / (root + rates.epsilon)
        each.master.mul_(1 - rates.learning_rate * rates.weight_decay).sub_(rates.learning_rate * change)
        if each.weight is not each.master:
            each.weight.copy_(each.master)


@torch.no_grad()
def by_torch(parameters: Sequence[Parameter], rates: Rates) -> None:
    """Step by torch's own AdamW, which takes many parameters at once."""
    gradients = [each.gradient.float() for each in parameters]
    if rates.gradient_scale != 1.0:
        gradients = [gradient * rates.gradient_scale for gradient in gradients]
    adamw_of_torch(
        [each.master for each in parameters],
        gradients,
        [each.exp_avg for each in parameters],
        [each.exp_avg_sq for each in parameters],
        [],
        [each.step for each in parameters],
        fused=True,
        amsgrad=False,
        beta1=rates.betas[0],
        beta2=rates.betas[1],
        lr=rates.learning_rate,
        weight_decay=rates.weight_decay,
        eps=rates.epsilon,
        maximize=False,
    )
    for each in parameters:
        if each.weight is not each.master:
            each.weight.copy_(each.master)


def adamw(parameters: Sequence[Parameter], rates: Rates) -> None:
    """Take one step of AdamW with these parameters, each by itself; the gradients stay as they are.

    The weights are then their masters, rounded. Raises KernelError when `use` asks for an implementation that
    cannot serve the call.
    """
    if parameters:
        OPERATOR.choose(parameters, rates).function(parameters, rates)


OPERATOR: Operator[Callable[[Sequence[Parameter], Rates], None]] = Operator(
    "adamw",
    (
        Implementation("native", adamw_native.adamw, adamw_native.refuses, missing=native.unavailable_reason),
        Implementation("torch", by_torch),
        Implementation("reference", reference),
    ),
)
