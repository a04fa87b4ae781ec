from __future__ import annotations

import os
import signal
import threading

import pytest

from receptance.training import stop_on_signals

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_asks(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    announced = []
    with stop_on_signals(lambda: announced.append(1)) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert announced == [1]
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_insists() -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_batch_system_may_send_its_signals_again_and_again() -> None:
    announced = []
    with stop_on_signals(lambda: announced.append(1)) as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop()
        assert announced == [1]


def test_outside_the_main_thread_it_never_says_yes() -> None:
    answers = []

    def ask() -> None:
        with stop_on_signals() as stop:
            answers.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]
