"""What training costs: the FLOPs of a token, and how many this machine can do in a second."""

from __future__ import annotations

import time

import torch

from receptance.errors import ConfigError
from receptance.models import AnyModel

_SIZE = 1024  # rows and columns of the matrices that are multiplied
_SECONDS = 0.3  # for which they are


def flops_per_token(model: AnyModel) -> int:
    """Return the floating-point operations that training a model takes for one token of any length of text.

    They are six for each number of a matrix that the token passes: a multiplication and an addition forwards,
    twice as many backwards. The embedding is looked up, and vectors and the recurrence do not count, so this
    is the 6 (V D + 13 D^2 L) of the RWKV-4 paper (arxiv.org/abs/2305.13048, table 2).
    """
    return 6 * sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name != "emb.weight" and model.is_matrix(name, parameter.shape)
    )


def matmul_peak(dtype: torch.dtype, device: str | torch.device = "cpu") -> float:
    """Return the FLOPs a second at which torch multiplies large matrices here, the best of many times.

    Raises ConfigError where torch cannot use the device.
    """
    try:
        a, b = (torch.ones(_SIZE, _SIZE, dtype=dtype, device=device) for _ in range(2))
    except (RuntimeError, AssertionError) as error:  # torch says in many ways that a device is not there
        raise ConfigError(f"run.device is {str(device)!r}, which torch cannot use: {error}") from error
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        float((a @ b)[0, 0])  # which waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2 * _SIZE**3 / best
