"""Serve with several processes on one port: the kernel divides the connections, a process that ended is replaced.

Each process has its event loop, its database connections, its limits of connections and its audit chain.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import structlog

from api.server.connections import BACKLOG

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

log = structlog.get_logger()

#: Seconds before a process that ended is replaced: one that cannot start must not use up a core.
RESTART_SECONDS = 1.0
#: Exit status of a process after an unexpected error.
FAILED = 1


def listening(host: str, port: int, count: int) -> list[socket.socket]:
    """Return *count* sockets that listen on one port; the parent keeps them, so that no queued connection is lost."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = [socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=True) for _ in range(count)]
    for each in found:
        # Inherited by the connections. asyncio sets it only where a socket names its protocol, which these do not:
        # without it the second packet of an answer waits for the acknowledgement of the first, up to 40 ms.
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


class Parent:
    """Parent of the processes that serve; runs before any thread is started, because it forks."""

    def __init__(self, sockets: list[socket.socket], serve: Callable[[socket.socket], None]) -> None:
        self._sockets = sockets
        self._serve = serve
        #: Number of the socket by process id.
        self._children: dict[int, int] = {}
        self._stopping = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; return when all processes have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for index in range(len(self._sockets)):
            self._fork(index)
        while self._children:
            pid, status = os.wait()
            index = self._children.pop(pid)
            if not self._stopping:
                log.error("api.process_ended", child=pid, status=os.waitstatus_to_exitcode(status))
                time.sleep(RESTART_SECONDS)
            if not self._stopping:
                self._fork(index)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)

    def _fork(self, index: int) -> None:
        # A signal between the fork and the note of its id would not be passed on.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        pid = os.fork()
        if pid == 0:
            self._be_child(self._sockets[index])
        self._children[pid] = index
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))

    def _be_child(self, own: socket.socket) -> None:
        """Serve on *own*; never returns."""
        status = FAILED
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            for other in self._sockets:
                if other is not own:
                    other.close()
            self._serve(own)
            status = 0
        except Exception as error:  # noqa: BLE001 - the boundary of the process
            log.error("api.process_failed", error=type(error).__name__)  # noqa: TRY400 - its text may hold patient data
        finally:
            # Not the exit handlers of the parent.
            os._exit(status)


def ends_with_parent(parent: int) -> Callable[[], None]:
    """Return a function, to be called regularly, that ends this process once its parent *parent* is gone."""

    def check() -> None:
        if os.getppid() != parent:
            signal.raise_signal(signal.SIGTERM)

    return check
