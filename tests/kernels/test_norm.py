from __future__ import annotations

import math

import pytest
import torch

from receptance import kernels, native


def ways() -> list[tuple[str, str]]:
    """Return every implementation, and the native one at every level."""
    levels = native.levels()
    return [*(("native", level) for level in levels), *((name, "") for name in ("torch", "reference"))]


@pytest.fixture(params=ways(), ids="-".join, autouse=True)
def _way(request: pytest.FixtureRequest) -> object:
    name, level = request.param
    with kernels.use(norm=name):
        if not level:
            yield
            return
        with native.use_level(level):
            yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [[1], [3, 129], [0, 70_001, 64]], ids=str)
def test_it_is_the_root_of_the_sum_of_all_squares(dtype: torch.dtype, sizes: list[int]) -> None:
    tensors = [torch.randn(size).to(dtype) for size in sizes]
    expected = math.sqrt(math.fsum(float(x) ** 2 for tensor in tensors for x in tensor.double()))
    assert kernels.norm(tensors) == pytest.approx(expected, rel=5e-6)


def test_tensors_may_be_strided_and_of_several_types() -> None:
    matrix = torch.randn(20, 30)
    assert kernels.norm([matrix.T, matrix[:, ::2].bfloat16()]) == pytest.approx(
        math.hypot(float(matrix.norm()), float(matrix[:, ::2].bfloat16().float().norm())), rel=1e-6
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 100, 130])
def test_what_is_not_finite_shows(bad: float, place: int) -> None:
    x = torch.ones(131)
    x[place] = bad
    assert not math.isfinite(kernels.norm([torch.ones(3), x]))


def test_of_nothing_it_is_0() -> None:
    assert kernels.norm([]) == 0.0


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit_of_the_native_one(
    request: pytest.FixtureRequest, threads: int
) -> None:
    if not request.node.callspec.id.startswith("native"):
        pytest.skip("torch sums in parts that depend on the threads")
    x, before = torch.randn(300_000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = kernels.norm([x])
        torch.set_num_threads(threads)
        assert kernels.norm([x]) == alone
    finally:
        torch.set_num_threads(before)
