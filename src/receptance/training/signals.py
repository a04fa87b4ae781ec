"""Stopping a run politely: the first Ctrl-C or SIGTERM asks, the second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(announce: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the run was asked to stop: what `train` takes as `stop`.

    While the block runs, the first SIGINT (Ctrl-C) or SIGTERM only makes the function say yes, and calls
    `announce`. The second one raises KeyboardInterrupt at once. Afterwards the signals do again what they did
    before. Outside the main thread, where Python handles no signals, the function never says yes.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
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
