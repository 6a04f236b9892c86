"""Act on signals in a thread of its own.

Python runs a signal's handler in the main thread, between any two of its steps. A handler that sets an Event waits for
ever where the main thread holds the lock of that Event, and a signal that arrives just before an endless wait is
handled after it: both were seen, rarely, as a listener that did not end.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING

import structlog

from db.logs import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

log = structlog.get_logger()

#: Signals that end a process in order.
STOP = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def handled(actions: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Call the action of each signal that arrives within the block, one after another; for the main thread."""
    received, sent = socket.socketpair()
    sent.setblocking(False)
    thread = threading.Thread(target=_act, args=(received, actions), name="signals")
    with received, contextlib.ExitStack() as ends:
        ends.callback(thread.join)
        ends.callback(sent.close)  # ends the thread
        for number in actions:
            ends.callback(signal.signal, number, signal.signal(number, _left_to_the_thread))
        ends.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False))
        thread.start()
        yield


def _left_to_the_thread(*_: object) -> None:
    """Do nothing: the interpreter has written the signal's number to the socket."""


def _act(received: socket.socket, actions: Mapping[signal.Signals, Callable[[], object]]) -> None:
    while numbers := received.recv(64):
        # A signal that the process handles otherwise is written to the socket, too.
        for number in [number for number in dict.fromkeys(numbers) if number in actions]:
            try:
                actions[signal.Signals(number)]()
            # The boundary of the thread: after a fault in one action the others still work.
            except Exception as error:  # noqa: BLE001
                log.error("signal.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
