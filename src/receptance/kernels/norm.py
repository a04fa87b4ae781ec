"""The norm of many tensors together, which training takes of all gradients at each step.

The implementations: `native` (compiled, for the CPU), `torch` (any device), `reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from receptance import native
from receptance.kernels import adamw_native
from receptance.kernels.dispatch import Implementation, Operator


def reference(tensors: Sequence[Tensor]) -> float:
    """Return the square root of the sum of all squares."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def by_torch(tensors: Sequence[Tensor]) -> float:
    """Return the norm of the tensors' norms."""
    return float(torch.nn.utils.get_total_norm([tensor.float() for tensor in tensors]))


def norm(tensors: Sequence[Tensor]) -> float:
    """Return the root of the sum of the squares of all elements of all tensors; 0 where there are none.

    It is not finite where an element is not, and may not be where a square is beyond float32. Raises
    KernelError when `use` asks for an implementation that cannot serve the call.
    """
    tensors = [tensor.detach() for tensor in tensors]
    return OPERATOR.choose(tensors).function(tensors)


def _refuses(tensors: Sequence[Tensor]) -> str | None:
    return next(filter(None, map(adamw_native.refuses_tensor, tensors)), None)


OPERATOR: Operator[Callable[[Sequence[Tensor]], float]] = Operator(
    "norm",
    (
        Implementation("native", adamw_native.norm, _refuses, missing=native.unavailable_reason),
        Implementation("torch", by_torch),
        Implementation("reference", reference),
    ),
)
