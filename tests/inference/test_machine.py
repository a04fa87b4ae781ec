"""What is said about the machine agrees with what the machine says elsewhere."""

from __future__ import annotations

import mmap
import platform
import resource

import numpy as np
import pytest
import torch

from receptance import native
from receptance.errors import KernelError
from receptance.inference import machine

MEBIBYTE = 1 << 20
linux = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells")


@pytest.mark.skipif(native.library() is None, reason="needs the native library")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_reading_reads_every_word(threads: int) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, size=threads * 4096, dtype=np.uint32)
    read = machine.reading(torch.from_numpy(words.view(np.uint8)), threads)
    assert read() == int(np.bitwise_xor.reduce(words))


@pytest.mark.skipif(native.library() is None, reason="needs the native library")
def test_reading_keeps_the_memory_that_it_reads() -> None:
    read = machine.reading(torch.full((64 * MEBIBYTE,), 7, dtype=torch.uint8), 1)
    torch.full((64 * MEBIBYTE,), 9, dtype=torch.uint8)
    assert read() == 0  # an even number of equal words


def test_without_the_library_reading_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_load", lambda: (None, "it is not built"))
    with pytest.raises(KernelError, match="it is not built"):
        machine.reading(torch.zeros(64, dtype=torch.uint8), 1)


@linux
def test_memory_that_is_touched_counts_and_the_peak_stays() -> None:
    before = machine.resident_bytes()
    with mmap.mmap(-1, 128 * MEBIBYTE) as fresh:  # an allocator may give memory again that it has kept
        for page in range(0, len(fresh), mmap.PAGESIZE):
            fresh[page] = 1
        during, peak = machine.resident_bytes(), machine.peak_bytes()
    after = machine.resident_bytes()
    assert before is not None
    assert during is not None
    assert peak is not None
    assert after is not None
    assert during - before >= 120 * MEBIBYTE
    assert peak >= during > after
    assert peak <= 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.01


def test_the_processor_has_a_name_and_cores() -> None:
    assert machine.processor().endswith(" cores")
