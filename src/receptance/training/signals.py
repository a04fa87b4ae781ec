"""Stopping a run politely: a signal asks, and a second Ctrl-C insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# SIGUSR1 is what a batch system can send ahead of the end of a job's time (`sbatch --signal=USR1@120`).
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def stop_on_signals(announce: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the run was asked to stop: what `train` takes as `stop`.

    While the block runs, the first SIGINT (Ctrl-C), SIGTERM or SIGUSR1 makes the function say yes, and calls
    `announce`. A second SIGINT raises KeyboardInterrupt at once; the others may come again and again, since
    batch systems send several. Afterwards the signals do again what they did before. Outside the main thread,
    where Python handles no signals, the function never says yes.
    """
    asked = threading.Event()
    interrupted = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and interrupted.is_set():
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            interrupted.set()
        if not asked.is_set():
            asked.set()
            announce()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
