"""The compiled library: found beside the package, loaded on first use, missing without harm.

It is plain C seen from here (`native/` in the repository), so it fits every Python and every torch. A module
that calls one of its functions declares that function's arguments itself, where it calls it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import receptance
from receptance.errors import KernelError

FILE = "_native.so"
INTERFACE = 9  # the same number as receptance_interface() in native/dispatch.cpp

_BUILD_IT = "`pip install .` in a clone builds it, with any C++ compiler."


def library() -> ctypes.CDLL | None:
    """Return the library, loaded at the first call; None where it cannot be used."""
    return _load()[0]


def unavailable_reason() -> str | None:
    """Say why `library()` is None, and what to do; None when the library is there."""
    return _load()[1]


def levels() -> tuple[str, ...]:
    """Return the instruction-set levels compiled in that this machine runs, best last; () without one."""
    loaded = library()
    return tuple(loaded.receptance_levels().decode().split()) if loaded else ()


def level() -> str:
    """Return the level that the kernels run at.

    Raises KernelError without the library.
    """
    return str(_required().receptance_level().decode())


@contextmanager
def use_level(name: str) -> Iterator[None]:
    """Run the kernels at this level inside the block: to test or to measure the lower ones.

    The choice is the process's, not the thread's. Raises KernelError when the level is not among `levels()`.
    """
    loaded, before = _required(), level()
    if not loaded.receptance_use_level(name.encode()):
        usable = ", ".join(levels())
        raise KernelError(
            f"level {name!r} cannot be used here; compiled in and run by this machine: {usable}"
        )
    try:
        yield
    finally:
        loaded.receptance_use_level(before.encode())


def _required() -> ctypes.CDLL:
    loaded, reason = _load()
    if loaded is None:
        raise KernelError(str(reason))
    return loaded


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """Return (library, None), or (None, the reason)."""
    files = [Path(folder, FILE) for folder in receptance.__path__]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        looked = ", ".join(str(file) for file in files)
        return None, f"the native library is not built: there is no {looked}. {_BUILD_IT}"
    try:
        loaded = ctypes.CDLL(str(file))
        interface = int(loaded.receptance_interface())
    except (OSError, AttributeError) as error:
        return None, f"{file}: cannot be loaded ({error}). {_BUILD_IT}"
    if interface != INTERFACE:
        return None, f"{file}: has interface {interface}, but this version needs {INTERFACE}. {_BUILD_IT}"
    loaded.receptance_levels.restype = ctypes.c_char_p
    loaded.receptance_level.restype = ctypes.c_char_p
    loaded.receptance_use_level.argtypes = [ctypes.c_char_p]
    if not loaded.receptance_levels():
        return None, f"{file}: this processor runs none of the instruction sets that it was compiled for."
    return loaded, None
