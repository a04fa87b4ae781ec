"""Keep freed memory in the process, so that a training step does not fetch it from the system again."""

from __future__ import annotations

from receptance import native


def tune_allocator() -> bool:
    """Tell the C library to keep what is freed, for the whole process and for good; return if it was done.

    A training step allocates the same large tensors over and over. By default glibc hands each one back to
    the system, which clears every page of the next one: up to a third of the time of a step on a CPU. The
    price is that the process never shrinks. Call it early, from a program's entry point, not from a library.
    It returns False where the C library is not glibc or the native library is missing.
    """
    library = native.library()
    return library is not None and bool(library.receptance_tune_allocator())
