"""What figures are of: the processor, how fast its memory is read, and how much of it this process has."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from receptance import native
from receptance.errors import KernelError
from receptance.inference.timing import Run


def processor() -> str:
    """Return the name of the processor and the number of its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def reading(data: UInt8[Tensor, " bytes"], threads: int) -> Run:
    """Return a run that reads the memory, all threads a part, and does nothing with it.

    Nothing that needs these bytes can be faster. Raises KernelError without the native library.
    """
    library = native.library()
    if library is None:
        raise KernelError(str(native.unavailable_reason()))
    read = library.receptance_read_memory
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int], ctypes.c_uint32
    return lambda: read(data.data_ptr(), data.nbytes, threads)  # which keeps the memory


def resident_bytes() -> int | None:
    """Return how much of the machine's memory this process has; None where the system does not say."""
    return _status("VmRSS")


def peak_bytes() -> int | None:
    """Return the most that this process ever had; None where the system does not say."""
    peak = _status("VmHWM")
    if peak is not None or sys.platform == "win32":
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int | None:
    """Return a size that Linux tells of this process."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
