from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from receptance.kernels.matrix_chunked import fading
from tests.kernels.matrix_cases import OPERATORS, call, make_inputs
from tests.kernels.ways import Way


def test_a_small_decay_is_not_lost_beside_a_large_one() -> None:
    w = torch.tensor([-3e4, -1e-3, -1e-3])[:, None]
    fade = fading(w)[..., 0]
    assert fade.shape == (4, 4)
    assert torch.equal(fade.triu(1), torch.zeros(4, 4))
    assert torch.equal(fade.diagonal(), torch.ones(4))
    assert float(fade[3, 1]) == pytest.approx(math.exp(-2e-3), rel=1e-7)
    assert float(fade[3, 0]) == 0.0


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("time", [1, 18])
def test_its_gradient_is_the_slope_of_both_results(operator: str, time: int) -> None:
    inputs = [x.requires_grad_() for x in make_inputs(operator, time, (2, 3), torch.float64, batch=1, head=1)]

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(Way(operator, "chunked"), list(inputs)))

    assert torch.autograd.gradcheck(function, inputs)
