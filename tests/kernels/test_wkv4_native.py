from __future__ import annotations

import pytest
import torch

from receptance import kernels, native
from receptance.errors import KernelError
from tests.kernels.ways import Way, native_ways
from tests.kernels.wkv4_cases import assert_as_expected, call, make_inputs, make_weights, run

pytestmark = pytest.mark.skipif(native.library() is None, reason=str(native.unavailable_reason()))
WAYS = native_ways("wkv4")


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("spread", [1.0, 40.0], ids=["flat", "stepped"])
def test_p_is_the_running_maximum_of_the_reference_to_the_bit(way: Way, spread: float) -> None:
    inputs = make_inputs(2, 333, 33, spread=spread)
    assert torch.equal(call(way, inputs)[3], call(Way("wkv4", "reference"), inputs)[3])


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("spread", [1.0, 40.0], ids=["flat", "stepped"])
@pytest.mark.parametrize("decay", [-1e-6, -1e-3])
def test_sums_do_not_drift_over_thousands_of_tokens(way: Way, spread: float, decay: float) -> None:
    inputs = make_inputs(1, 8192, 4, spread=spread, empty=True)
    inputs[2] = torch.full((4,), decay)
    _, a, b, p = call(way, inputs)
    _, a64, b64, p64 = call(Way("wkv4", "scan"), [x.double() for x in inputs])
    scale = torch.exp(p.double() - p64)
    torch.testing.assert_close(b * scale, b64, rtol=2e-5, atol=0.0)
    torch.testing.assert_close(a * scale, a64, rtol=0.0, atol=2e-5 * float(b64.max()))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("bonus", [-19.9, 19.9])
@pytest.mark.parametrize("high", [0.1, 0.9], ids=["rarely high", "mostly high"])
def test_a_block_may_span_all_that_the_flat_way_allows(way: Way, bonus: float, high: float) -> None:
    inputs, weights = make_inputs(2, 200, 16), make_weights(2, 200, 16)
    is_high = torch.rand(inputs[0].shape, generator=torch.Generator().manual_seed(2)) < high
    inputs[0] = torch.where(is_high, 24.9, -24.9)
    inputs[3] = torch.full((16,), bonus)
    inputs64 = [x.double() for x in inputs]
    p = call(Way("wkv4", "scan"), inputs64)[3]
    assert_as_expected(
        way, run(way, inputs, weights, p), run(Way("wkv4", "scan", torch.float64), inputs64, weights, p)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_number_of_threads_changes_nothing(dtype: torch.dtype, batch: int) -> None:
    inputs, weights = make_inputs(batch, 300, 333, dtype), make_weights(batch, 300, 333)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(Way("wkv4", "native", dtype), inputs, weights))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[1], results[0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(results[2], results[0], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_bfloat16_is_rounded_only_on_the_way_in_and_out(way: Way) -> None:
    inputs = make_inputs(2, 40, 33, torch.bfloat16)
    half = call(Way("wkv4", "native", torch.bfloat16, way.level), inputs)
    full = call(way, [x.float() for x in inputs])
    assert torch.equal(half[0], full[0].bfloat16())
    torch.testing.assert_close(half[1:], full[1:], rtol=0.0, atol=0.0)


def test_what_it_cannot_serve_is_refused_with_the_reason() -> None:
    k, v, w, u, a, b, p = make_inputs(1, 3, 2)
    with kernels.use(wkv4="native"):
        with pytest.raises(
            KernelError, match=r"'native' cannot serve this call: .* torch.float16 and torch.float16"
        ):
            kernels.wkv4(k.half(), v.half(), w, u, (a, b, p))
        with pytest.raises(KernelError, match=r"w, u and the sums in float32, got torch.float64"):
            kernels.wkv4(k, v, w.double(), u.double(), (a.double(), b.double(), p.double()))
        with pytest.raises(KernelError, match="on the CPU, and the tensors are on meta"):
            kernels.wkv4(*(x.to("meta") for x in (k, v, w, u)), (a.to("meta"), b.to("meta"), p.to("meta")))


def test_left_alone_the_next_implementation_serves_what_it_refuses() -> None:
    k, v, w, u, a, b, p = make_inputs(1, 3, 2)
    y, _ = kernels.wkv4(k.half(), v.half(), w, u, (a, b, p))
    expected, _ = kernels.wkv4(k.half().float(), v.half().float(), w, u, (a, b, p))
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), expected, rtol=1e-3, atol=1e-3)
