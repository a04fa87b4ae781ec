from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from receptance import native
from receptance.errors import ConfigError
from receptance.quantization import packed
from receptance.quantization.arena import Arena
from receptance.quantization.packed import FORMATS, Format, PackedMatrix

needs_library = pytest.mark.skipif(native.library() is None, reason=str(native.unavailable_reason()))
all_formats = pytest.mark.parametrize("matrix_format", FORMATS)

# How far a product may be off. Inputs of several tokens may be rounded to bfloat16, those of int8 and int4
# always are to int8.
BOUNDS = {"float32": 2e-6, "bfloat16": 2**-8, "int8": 1 / 127, "int4": 1 / 127}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def rounding(matrix: Tensor, matrix_format: Format) -> Tensor:
    """Return how far a weight may move: half a step, and the rounding of the scale."""
    columns = matrix.shape[1]
    groups = torch.nn.functional.pad(matrix, (0, -columns % 32)).view(len(matrix), -1, 32)
    largest = groups.abs().amax(-1, keepdim=True).expand_as(groups).flatten(1)[:, :columns]
    if matrix_format == "float32":
        return torch.zeros_like(matrix)
    if matrix_format == "bfloat16":
        return matrix.abs() * 2**-8
    return largest * {"int8": 0.51 / 127 + 2**-8 / 2, "int4": 1 / 7}[matrix_format]


@all_formats
@given(rows=st.integers(1, 50), columns=st.integers(1, 100), scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e20]))
@settings(max_examples=40, deadline=None)
def test_dequantising_gives_the_matrix_back_to_half_a_step(
    matrix_format: Format, rows: int, columns: int, scale: float
) -> None:
    matrix = torch.randn(rows, columns) * scale
    again = PackedMatrix.pack(matrix, matrix_format).dequantize()
    assert again.shape == matrix.shape
    assert again.dtype == torch.float32
    assert ((again - matrix).abs() <= rounding(matrix, matrix_format)).all()


@pytest.mark.parametrize("matrix_format", ["int8", "int4"])
def test_integers_times_scales_are_the_numbers_and_pack_to_the_same_bytes(
    matrix_format: Literal["int8", "int4"],
) -> None:
    matrix = PackedMatrix.pack(torch.randn(37, 70), matrix_format)
    integers, scales = matrix.integers()
    numbers = (integers.float() * scales.float()[..., None]).flatten(1)[:, :70]
    assert torch.equal(numbers, matrix.dequantize())
    again = PackedMatrix.of_integers(integers, scales, matrix_format, 70)
    assert torch.equal(again.data, matrix.data)


@pytest.mark.parametrize(
    ("matrix_format", "bits"), [("float32", 32), ("bfloat16", 16), ("int8", 8.5), ("int4", 4.5)]
)
def test_a_weight_takes_these_bits(matrix_format: Format, bits: float) -> None:
    assert PackedMatrix.pack(torch.randn(64, 96), matrix_format).data.nbytes == 64 * 96 * bits / 8


def test_the_order_is_that_of_the_native_library() -> None:
    matrix = (torch.arange(16 * 32).view(16, 32) % 251 - 125).float()
    matrix[:, 31] = 127  # makes every scale 1
    data = PackedMatrix.pack(matrix, "int8").data
    assert torch.equal(data[:32].view(torch.bfloat16), torch.ones(16, dtype=torch.bfloat16))
    row, column = 5, 22
    assert data[32:].view(torch.int8)[column // 4 * 64 + row * 4 + column % 4] == matrix[row, column]
    pairs = PackedMatrix.pack(matrix, "bfloat16").data.view(torch.bfloat16)
    assert pairs[column // 2 * 32 + row * 2 + column % 2] == matrix[row, column]
    assert (
        PackedMatrix.pack(matrix, "float32").data.view(torch.float32)[column * 16 + row]
        == matrix[row, column]
    )
    small = (matrix % 16 - 8).float()
    small[:, 0] = -8
    nibbles = PackedMatrix.pack(small, "int4").data[32:]
    byte = int(nibbles[(column - 16) // 4 * 64 + row * 4 + column % 4])
    assert (byte & 15) - 8 == small[row, column - 16]
    assert (byte >> 4) - 8 == small[row, column]


@needs_library
@all_formats
@given(
    rows=st.integers(1, 50),
    columns=st.integers(1, 100),
    scale=st.sampled_from([1e-30, 1e-20, 1e-3, 1.0, 1e20]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    is_coarse=st.booleans(),
    is_transposed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_level_packs_what_torch_packs(
    matrix_format: Format,
    rows: int,
    columns: int,
    scale: float,
    dtype: torch.dtype,
    is_coarse: bool,
    is_transposed: bool,
) -> None:
    matrix = torch.randn(rows, columns)
    if is_coarse:  # many weights are equally large
        matrix = (3 * matrix).round()
    matrix = (matrix * scale).to(dtype)
    if is_transposed:
        matrix = matrix.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        patch.setattr(packed, "_SLICE", 40 * 64)  # so that there are several
        expected = PackedMatrix.pack(matrix, matrix_format)
        numbers = expected.dequantize()
    for level in native.levels():
        with native.use_level(level):
            got = PackedMatrix.pack(matrix, matrix_format)
            assert torch.equal(got.data, expected.data)
            assert torch.equal(got.dequantize(), numbers)


def test_int4_scales_beat_the_largest_weight_over_seven() -> None:
    matrix = torch.randn(64, 512)
    error = (PackedMatrix.pack(matrix, "int4").dequantize() - matrix).norm()
    scale = matrix.view(64, -1, 32).abs().amax(-1, keepdim=True) / 7
    plain = ((matrix.view(64, -1, 32) / scale).round() * scale).view_as(matrix)
    assert error < 0.9 * (plain - matrix).norm()


@all_formats
def test_matrices_of_an_arena_are_the_same(matrix_format: Format) -> None:
    arena, matrix = Arena(), torch.randn(33, 47)
    for _ in range(2):
        inside = PackedMatrix.pack(matrix, matrix_format, arena)
        assert torch.equal(inside.data, PackedMatrix.pack(matrix, matrix_format).data)
        assert inside.data.data_ptr() % 64 == 0


@pytest.mark.parametrize("value", [0.0, 1e-35, -1e-40])
@all_formats
def test_groups_of_nothing_are_zero(matrix_format: Format, value: float) -> None:
    again = PackedMatrix.pack(torch.full((3, 40), value), matrix_format).dequantize()
    assert ((again - value).abs() < 1e-30).all()


def test_what_cannot_be_packed_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="format 'int3' is unknown; known: float32, bfloat16, int8, int4"):
        PackedMatrix.pack(torch.ones(2, 2), "int3")  # type: ignore[arg-type]  # on purpose
    for matrix in (torch.ones(3), torch.ones(2, 2, dtype=torch.int64), torch.ones(0, 4)):
        with pytest.raises(ConfigError, match="a matrix of floating-point numbers is needed, got"):
            PackedMatrix.pack(matrix, "int8")
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ConfigError, match="not finite cannot be rounded to integers"):
            PackedMatrix.pack(torch.tensor([[1.0, wrong]]), "int4")
    with pytest.raises(ConfigError, match=r"takes \[token, 4\], got \(2, 3\)"):
        PackedMatrix.pack(torch.ones(2, 4), "int8").multiply(torch.ones(2, 3))


@needs_library
@pytest.mark.parametrize("level", native.levels())
@all_formats
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (16, 32), (37, 65), (64, 31), (60, 130), (125, 33), (250, 64), (129, 520)]
)
def test_products_are_those_of_the_dequantised_weights(
    matrix_format: Format, level: str, rows: int, columns: int
) -> None:
    matrix = PackedMatrix.pack(torch.randn(rows, columns), matrix_format)
    weights = matrix.dequantize().double()
    bound = BOUNDS[matrix_format]
    with native.use_level(level):
        for tokens in (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 64):
            x = torch.randn(tokens, columns)
            expected, sizes = x.double() @ weights.T, x.double().abs() @ weights.abs().T
            largest = x.double().abs().amax(1, keepdim=True) * weights.abs().sum(1)
            wrong = (matrix.multiply(x, threads=1) - expected).abs()
            assert (wrong <= bound * (largest if "int" in matrix_format else sizes) + 1e-30).all()
            if matrix_format == "bfloat16" and tokens <= 2:  # exact but for the order of the sum
                assert (wrong <= 2e-6 * sizes).all()


@needs_library
@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("matrix_format", ["int8", "int4"])
def test_integer_inputs_are_multiplied_exactly(matrix_format: Format, level: str) -> None:
    matrix = PackedMatrix.pack(torch.randn(70, 200), matrix_format)
    x = torch.randint(-127, 128, (9, 200)).float()
    x[:, ::32] = 127  # makes every scale of the inputs 1
    expected = x.double() @ matrix.dequantize().double().T
    with native.use_level(level):
        torch.testing.assert_close(matrix.multiply(x).double(), expected, rtol=1e-5, atol=1e-3)


@needs_library
@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("matrix_format", ["int8", "int4"])
def test_the_largest_integers_do_not_overflow(matrix_format: Format, level: str) -> None:
    signs = torch.tensor([1.0, -1.0]).repeat(16, 512)
    matrix = PackedMatrix.pack(signs, matrix_format)
    for x in (signs[:3], -signs[:3], signs[:3].abs()):
        with native.use_level(level):
            expected = x.double() @ matrix.dequantize().double().T
            torch.testing.assert_close(matrix.multiply(x).double(), expected, rtol=1e-5, atol=1e-2)


@needs_library
@all_formats
@pytest.mark.parametrize("level", native.levels())
def test_the_number_of_threads_changes_nothing(matrix_format: Format, level: str) -> None:
    matrix = PackedMatrix.pack(torch.randn(345, 96), matrix_format)
    with native.use_level(level):
        for tokens in (1, 3, 20):
            x = torch.randn(tokens, 96)
            one = matrix.multiply(x, threads=1)
            for threads in (2, 3, 50):
                assert torch.equal(matrix.multiply(x, threads=threads), one)


@needs_library
@all_formats
@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_inputs_that_are_not_finite_are_not_hidden(matrix_format: Format, level: str, wrong: float) -> None:
    matrix = PackedMatrix.pack(torch.rand(20, 70) + 1, matrix_format)
    for tokens in (1, 6):
        x = torch.ones(tokens, 70)
        x[0, 69] = wrong
        with native.use_level(level):
            y = matrix.multiply(x)
        assert not y[0].isfinite().any()
        assert y[1:].isfinite().all()
