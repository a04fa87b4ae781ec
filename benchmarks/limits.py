"""What the machine can do at most: multiply-adds in registers, and bytes through the memory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from receptance.inference.timing import Run

ROUNDS = 1_000_000  # a few milliseconds


@cache
def _compiled() -> ctypes.CDLL | None:
    """Compile limits.c for this machine; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "limits.so")
        source = Path(__file__).with_suffix(".c")
        command = [compiler, "-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-o"]
        subprocess.run([*command, str(library), str(source)], check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.multiply_adds.argtypes, loaded.multiply_adds.restype = [ctypes.c_long], ctypes.c_long
    return loaded


def multiply_adds(threads: int) -> tuple[Run, int] | None:
    """Return a run that does nothing but multiply-adds of float32, and how many; None without a compiler."""
    library = _compiled()
    if library is None:
        return None
    pool = ThreadPoolExecutor(threads)
    count = threads * library.multiply_adds(ROUNDS)
    return lambda: list(pool.map(library.multiply_adds, [ROUNDS] * threads)), count


def addition(size: int, dtype: torch.dtype = torch.float32) -> Run:
    """Return a torch.add that reads and writes this many bytes in all."""
    x, y, out = torch.ones(3, size // 3 // dtype.itemsize, dtype=dtype)
    return lambda: torch.add(x, y, out=out)
