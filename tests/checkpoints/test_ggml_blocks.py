"""Blocks of ggml mean the same numbers here as in ggml's own package, to the bit."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from receptance.checkpoints.ggml_blocks import BLOCK_FORMATS
from receptance.errors import ConfigError

FORMATS = pytest.mark.parametrize("name", BLOCK_FORMATS)


@FORMATS
def test_sizes_are_those_of_ggml(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    block = BLOCK_FORMATS[name]
    expected = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert (block.block_size, block.bytes_per_block) == expected


@FORMATS
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), blocks=st.integers(1, 5))
def test_any_bytes_give_the_numbers_of_ggml(name: str, seed: int, rows: int, blocks: int) -> None:
    gguf = pytest.importorskip("gguf")
    block = BLOCK_FORMATS[name]
    data = np.random.default_rng(seed).integers(
        0, 256, (rows, blocks * block.bytes_per_block), dtype=np.uint8
    )
    with np.errstate(invalid="ignore", over="ignore"):
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    found = block.dequantise(data, (rows, blocks * block.block_size)).numpy()
    is_number = ~np.isnan(expected)  # of what is no number, the bits mean nothing
    assert (np.isnan(found) == ~is_number).all()
    assert np.array_equal(found.view(np.uint32)[is_number], expected.view(np.uint32)[is_number])


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_ggml_quantised_reads_back(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[name]
    values = np.random.default_rng(0).normal(size=(3, 5, 96)).astype(np.float32)
    packed = gguf.quants.quantize(values, kind)
    found = BLOCK_FORMATS[name].dequantise(packed.tobytes(), values.shape).numpy()
    assert np.array_equal(found, gguf.quants.dequantize(packed, kind))
    assert np.abs(found - values).max() < 0.3


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_is_written_is_rounded_as_ggml_does(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    values = torch.randn(300, 1024, generator=torch.Generator().manual_seed(0))  # more than one piece
    written = b"".join(BLOCK_FORMATS[name].quantise(values))
    assert written == gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType[name]).tobytes()
    halves = values[:2].to(torch.float16)
    assert b"".join(BLOCK_FORMATS[name].quantise(halves)) == b"".join(
        BLOCK_FORMATS[name].quantise(halves.float())
    )


def test_a_format_that_ggmls_package_only_reads_is_not_written() -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ConfigError, match="the package 'gguf' cannot write Q4_K"):
        list(BLOCK_FORMATS["Q4_K"].quantise(torch.zeros(1, 256)))


def test_without_ggmls_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"writing Q8_0 needs .* pip install 'receptance\[gguf\]'"):
        list(BLOCK_FORMATS["Q8_0"].quantise(torch.zeros(1, 32)))


def f16(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}e", *numbers)


def k_scales(parts: list[int], offsets: list[int]) -> bytes:
    """Eight scales and eight offsets of six bits, as the K formats pack them, bit by bit from their table."""
    first = [parts[i] | (parts[i + 4] >> 4 << 6) for i in range(4)]
    second = [offsets[i] | (offsets[i + 4] >> 4 << 6) for i in range(4)]
    rest = [(parts[i + 4] & 15) | ((offsets[i + 4] & 15) << 4) for i in range(4)]
    return bytes(first + second + rest)


def test_each_bit_has_the_meaning_that_the_layouts_give_it() -> None:
    up, down = torch.arange(16.0), 15 - torch.arange(16.0)
    crossed = bytes((15 - i) | (i << 4) for i in range(16))  # counts down in the low halves, up in the others
    last = torch.tensor([4.0] * 31 + [20.0])
    cases = {
        "Q8_0": (f16(0.5) + struct.pack("32b", *range(-16, 16)), 0.5 * (torch.arange(32) - 16)),
        "Q4_0": (f16(2) + crossed, 2 * (torch.cat([down, up]) - 8)),
        "Q4_1": (f16(2, -3) + crossed, 2 * torch.cat([down, up]) - 3),
        "Q5_0": (f16(1) + b"\xff\0\0\0" + crossed, torch.cat([down + 16 * (up < 8), up]) - 16),
        "Q5_1": (f16(1, 4) + b"\0\0\0\x80" + bytes(16), last),
    }
    for name, (data, expected) in cases.items():
        assert torch.equal(BLOCK_FORMATS[name].dequantise(data, (32,)), expected), name


def test_k_blocks_have_a_scale_and_an_offset_a_part() -> None:
    parts, offsets = [1, 2, 3, 4, 17, 34, 51, 63], [63, 51, 34, 17, 4, 3, 2, 1]
    head = f16(1, 0.5) + k_scales(parts, offsets)
    scale, offset = (torch.tensor(numbers).repeat_interleave(32) for numbers in (parts, offsets))
    # Low halves are one, upper halves two: they are the parts of even and of odd number.
    q = torch.tensor([1, 2] * 4).repeat_interleave(32)
    found = BLOCK_FORMATS["Q4_K"].dequantise(head + b"\x21" * 128, (256,))
    assert torch.equal(found, scale * q - 0.5 * offset)
    # The fifth bit of every number of part 5 alone.
    found = BLOCK_FORMATS["Q5_K"].dequantise(head + bytes([1 << 5]) * 32 + b"\x21" * 128, (256,))
    assert torch.equal(found, scale * (q + 16 * (torch.arange(256) // 32 == 5)) - 0.5 * offset)
    scales = range(-8, 8)
    data = b"\x21" * 128 + b"\xe4" * 64 + struct.pack("16b", *scales) + f16(2)
    # 0xe4 is 3, 2, 1, 0 from above: each quarter of a half of the block has one of them.
    low, high = torch.tensor([1, 1, 2, 2] * 2), torch.tensor([0, 1, 2, 3] * 2)
    q = (low + 16 * high - 32).repeat_interleave(32)
    assert torch.equal(
        BLOCK_FORMATS["Q6_K"].dequantise(data, (256,)), 2 * torch.tensor(scales).repeat_interleave(16) * q
    )


@FORMATS
def test_sizes_that_cannot_be_are_refused(name: str) -> None:
    block = BLOCK_FORMATS[name]
    with pytest.raises(ValueError, match=f"{name} has blocks of {block.block_size} values, and a row has 20"):
        block.num_bytes((4, 20))
    with pytest.raises(ValueError, match=r"a row has 1$"):
        block.num_bytes(())
    size = block.block_size
    assert block.num_bytes((3, 2 * size)) == 6 * block.bytes_per_block
    with pytest.raises(ValueError, match="needs"):
        block.dequantise(bytes(6 * block.bytes_per_block - 1), (3, 2 * size))
    assert block.dequantise(b"", (0, size)).shape == (0, size)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("value", [0.0, 1e-44, -1e-38, 3e-5, 65504.0])
def test_quantised_values_are_finite_however_small_or_large(name: str, value: float) -> None:
    pytest.importorskip("gguf")
    values = torch.linspace(-value, value, 64).reshape(2, 32)
    packed = b"".join(bytes(piece) for piece in BLOCK_FORMATS[name].quantise(values))
    found = BLOCK_FORMATS[name].dequantise(packed, (2, 32))
    assert float((found - values).abs().max()) <= value / 7 + 1e-7


def test_values_beyond_the_scales_are_refused() -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ConfigError, match=r"values up to 7e\+04, too large for the float16 scales of Q4_0"):
        list(BLOCK_FORMATS["Q4_0"].quantise(torch.full((1, 32), -7e4)))


def test_without_the_package_nothing_is_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'receptance\[gguf\]'"):
        list(BLOCK_FORMATS["Q4_0"].quantise(torch.zeros(1, 32)))


def test_what_the_package_only_reads_is_refused() -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ConfigError, match="cannot write Q6_K"):
        list(BLOCK_FORMATS["Q6_K"].quantise(torch.zeros(1, 256)))
