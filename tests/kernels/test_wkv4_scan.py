from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receptance import kernels
from receptance.kernels import wkv4_native, wkv4_scan
from tests.kernels.ways import Way
from tests.kernels.wkv4_cases import call, make_inputs


@pytest.mark.parametrize("time", [1, 16, 35])
def test_its_gradient_is_the_slope_of_every_output(time: int) -> None:
    inputs = [x.requires_grad_() for x in make_inputs(1, time, 2, torch.float64, spread=1.0)]

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        k, v, w, u, a, b, p = inputs
        with kernels.use(wkv4="scan"):
            y, sums = kernels.wkv4(k, v, w, u, (a, b, p))
        return y, *sums

    assert torch.autograd.gradcheck(function, inputs, atol=1e-7)


def test_one_token_at_a_time_is_the_same_as_all_at_once() -> None:
    k, v, *rest = make_inputs(2, 40, 5, torch.float64)
    whole = call(Way("wkv4", "scan"), [k, v, *rest])
    y, sums = [], rest[2:]
    for t in range(40):
        now, *sums = call(Way("wkv4", "scan"), [k[:, t : t + 1], v[:, t : t + 1], *rest[:2], *sums])
        y.append(now)
    torch.testing.assert_close(torch.cat(y, dim=1), whole[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(sums, whole[1:], rtol=1e-13, atol=1e-13)


def test_the_blocks_are_those_of_the_native_library() -> None:
    assert wkv4_scan.BLOCK == wkv4_native.BLOCK
    library = wkv4_native.native.library()
    if library is None:
        pytest.skip("the native library is missing")
    assert library.receptance_wkv4_block() == wkv4_scan.BLOCK
