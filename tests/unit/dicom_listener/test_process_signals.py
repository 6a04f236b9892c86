"""Signals are acted on in a thread of their own."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from structlog.testing import capture_logs

from dicom_listener import process_signals


def test_signal_sets_an_event_whose_lock_the_main_thread_holds() -> None:
    stop = threading.Event()
    with process_signals.handled(dict.fromkeys(process_signals.STOP, stop.set)):
        with stop._cond:  # as inside stop.wait
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)


def test_signal_that_another_thread_receives_is_acted_on() -> None:
    stop, done = threading.Event(), threading.Event()
    with process_signals.handled({signal.SIGTERM: stop.set}):
        other = threading.Thread(target=done.wait)
        other.start()
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGTERM)
        # Without a limit, as the listener waits: nothing interrupts the main thread.
        stop.wait()
        done.set()
        other.join()


def test_failed_action_leaves_the_others() -> None:
    def fail() -> None:
        raise ValueError

    stop = threading.Event()
    with capture_logs() as lines, process_signals.handled({signal.SIGHUP: fail, signal.SIGTERM: stop.set}):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    assert [(line["event"], line["error"]) for line in lines] == [("signal.failed", "ValueError")]


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), process_signals.handled({signal.SIGTERM: lambda: None}):
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"]
