from __future__ import annotations

import pytest
import torch

from receptance import kernels, native
from receptance.errors import KernelError
from receptance.kernels.matrix_operator import BLOCK
from tests.kernels.matrix_cases import (
    NARROW,
    OPERATORS,
    assert_as_expected,
    call,
    case,
    make_inputs,
    run,
)
from tests.kernels.ways import Way

pytestmark = pytest.mark.skipif(native.library() is None, reason=str(native.unavailable_reason()))


def test_the_blocks_are_those_of_the_native_library() -> None:
    library = native.library()
    assert library is not None
    assert library.receptance_matrix_block() == BLOCK


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("time", [2, 3, 4, 5, 35])
def test_any_number_of_tokens_keys_and_values_may_be_left_over(operator: str, level: str, time: int) -> None:
    inputs, weights, expected = case(operator, time, (17, 49), torch.float32)
    way = Way(operator, "native", torch.float32, level)
    assert_as_expected(way, run(way, inputs, weights), expected)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("sizes", [(0, 8), (8, 0)], ids=str)
def test_a_head_without_keys_or_values_is_served(operator: str, sizes: tuple[int, int]) -> None:
    inputs = make_inputs(operator, 5, sizes)
    weights = [torch.ones_like(x) for x in call(Way(operator, "reference"), inputs)]
    results = run(Way(operator, "native"), inputs, weights)
    assert all(bool((x == 0).all()) for x in results.values())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", NARROW)
def test_the_number_of_threads_changes_nothing(operator: str, dtype: torch.dtype) -> None:
    inputs = make_inputs(operator, 300, (24, 40), dtype, head=5)
    weights = [torch.ones_like(x) for x in call(Way(operator, "native"), inputs)]
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(Way(operator, "native", dtype), inputs, weights))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[1], results[0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(results[2], results[0], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("level", native.levels())
def test_bfloat16_is_rounded_only_on_the_way_in_and_out(operator: str, level: str) -> None:
    inputs = make_inputs(operator, 40, (9, 33), torch.bfloat16)
    half = call(Way(operator, "native", torch.bfloat16, level), inputs)
    full = call(Way(operator, "native", torch.float32, level), [x.float() for x in inputs])
    assert torch.equal(half[0], full[0].bfloat16())
    torch.testing.assert_close(half[1], full[1], rtol=0.0, atol=0.0)


def test_what_it_cannot_serve_is_refused_with_the_reason() -> None:
    r, k, v, *rest = make_inputs("wkv6", 3)
    with kernels.use(wkv6="native"):
        with pytest.raises(KernelError, match=r"cannot serve this call: .* got torch.float16, torch.float16"):
            kernels.wkv6(r.half(), k.half(), v.half(), *rest)
        with pytest.raises(KernelError, match=r"everything but r, k and v in float32, got torch.float64"):
            kernels.wkv6(r, k, v, *(x.double() for x in rest))
        with pytest.raises(KernelError, match="on the CPU, and the tensors are on meta"):
            kernels.wkv6(*(x.to("meta") for x in (r, k, v, *rest)))
    y, _ = kernels.wkv6(r.half(), k.half(), v.half(), *rest)
    assert y.dtype == torch.float16
