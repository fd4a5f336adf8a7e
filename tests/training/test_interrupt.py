"""Signals: the first asks, the second stops, and the handlers are put back."""

import os
import signal
import threading

import pytest

from rgals.training.interrupt import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(number):
    with StopSignals() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), number)
        assert should_stop()


def test_the_second_signal_stops_at_once():
    with StopSignals() as should_stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert should_stop()


def test_the_handlers_that_were_there_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_installed():
    found = []

    def enter():
        with StopSignals() as should_stop:
            found.append((should_stop(), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(False, before)]
