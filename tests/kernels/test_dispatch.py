from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import receptance
from receptance import kernels, native
from receptance.errors import KernelError
from receptance.kernels import cross_entropy_native, wkv4_native
from tests.kernels.ways import Way
from tests.kernels.wkv4_cases import call, make_inputs

OPERATORS = {
    "wkv4": ["native", "scan", "reference"],
    "linear_cross_entropy": ["native", "torch", "reference"],
}


@pytest.fixture
def without_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = (native._load, wkv4_native._library, cross_entropy_native._library)
    monkeypatch.setattr(receptance, "__path__", [str(tmp_path)])
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_the_table_lists_every_implementation_the_fastest_first() -> None:
    rows = kernels.implementations()
    for operator, names in OPERATORS.items():
        assert [row.implementation for row in rows if row.operator == operator] == names
    assert {row.unavailable for row in rows if row.implementation != "native"} == {None}


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_implementation_is_available_where_the_library_is(operator: str) -> None:
    if native.library() is None:
        pytest.skip("the native library is missing")
    assert kernels.available(operator) == OPERATORS[operator]


@pytest.mark.usefixtures("without_library")
def test_without_the_library_the_others_serve_and_the_table_says_why() -> None:
    assert kernels.available("wkv4") == ["scan", "reference"]
    assert kernels.available("linear_cross_entropy") == ["torch", "reference"]
    reasons = {row.unavailable for row in kernels.implementations() if row.implementation == "native"}
    assert reasons == {native.unavailable_reason()}
    assert not kernels.tune_allocator()

    inputs = make_inputs(1, 20, 3)
    k, v, w, u, a, b, p = inputs
    y, _ = kernels.wkv4(k, v, w, u, (a, b, p))
    torch.testing.assert_close(y, call(Way("wkv4", "reference"), inputs)[0])
    loss, _ = kernels.linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 3]))
    torch.testing.assert_close(loss, torch.tensor(4.0).log())


@pytest.mark.usefixtures("without_library")
def test_without_the_library_asking_for_it_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(KernelError, match=r"'native' cannot serve this call: .* is not built: .* builds it"):
        call(Way("wkv4", "native"), make_inputs(1, 2, 3))


def test_a_name_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with (
        pytest.raises(KernelError, match=r"no operator is called 'wkv9'; there are .*wkv4"),
        kernels.use(wkv9="scan"),
    ):
        pass
    with (
        pytest.raises(
            KernelError, match="wkv4: no implementation is called 'fast'; there are native, scan, refer"
        ),
        kernels.use(wkv4="fast"),
    ):
        pass
    with pytest.raises(KernelError, match="no operator is called"):
        kernels.available("wkv9").clear()


def test_a_choice_ends_with_its_block_and_inner_ones_win() -> None:
    inputs = make_inputs(1, 2, 3, torch.float16)  # which the native one refuses
    with kernels.use(wkv4="native"):
        with kernels.use(wkv4="scan", linear_cross_entropy="torch"):
            k, v, w, u, a, b, p = inputs
            kernels.wkv4(k, v, w, u, (a, b, p))
        with pytest.raises(KernelError):
            kernels.wkv4(k, v, w, u, (a, b, p))
    kernels.wkv4(k, v, w, u, (a, b, p))


def test_a_choice_is_that_of_its_thread() -> None:
    k, v, w, u, a, b, p = make_inputs(1, 2, 3, torch.float16)
    served = []
    with kernels.use(wkv4="native"):
        thread = threading.Thread(target=lambda: served.append(kernels.wkv4(k, v, w, u, (a, b, p))))
        thread.start()
        thread.join()
    assert len(served) == 1


def test_going_back_uses_what_went_forward() -> None:
    inputs = [x.requires_grad_() for x in make_inputs(1, 4, 3)]
    y, *_ = call(Way("wkv4", "scan"), inputs)
    with kernels.use(wkv4="reference"):  # too late
        y.sum().backward()
    assert inputs[0].grad is not None
