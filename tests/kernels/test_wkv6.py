from __future__ import annotations

import math

import pytest
import torch

from receptance import kernels
from tests.kernels.matrix_cases import make_inputs


def test_the_reference_is_the_sum_of_the_paper() -> None:
    inputs = make_inputs("wkv6", 9, (3, 2), torch.float64, batch=1, head=1)
    r, k, v, w, u, state = (x[0, :, 0].tolist() if x.ndim == 4 else x[0].tolist() for x in inputs)
    state = inputs[5][0, 0].tolist()
    with kernels.use(wkv6="reference"):
        y, end = kernels.wkv6(*inputs)

    def past(t: int, n: int, m: int) -> float:
        """What a sum over the past holds before token t, at key n and value m."""
        fading = [math.exp(sum(w[s][n] for s in range(i + 1, t))) for i in range(t)]
        start = math.exp(sum(w[s][n] for s in range(t))) * state[n][m]
        return start + sum(fading[i] * k[i][n] * v[i][m] for i in range(t))

    for m in range(2):
        for t in range(9):
            read = sum(r[t][n] * (past(t, n, m) + u[n] * k[t][n] * v[t][m]) for n in range(3))
            assert float(y[0, t, 0, m]) == pytest.approx(read, rel=1e-12)
        for n in range(3):
            assert float(end[0, 0, n, m]) == pytest.approx(past(9, n, m), rel=1e-12)
