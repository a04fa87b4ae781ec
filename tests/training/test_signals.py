from __future__ import annotations

import os
import signal
import threading

import pytest

from receptance.training import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    announced = []
    with stop_on_signals(lambda: announced.append(1)) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert announced == [1]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_it_never_says_yes() -> None:
    answers = []

    def ask() -> None:
        with stop_on_signals() as stop:
            answers.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]
