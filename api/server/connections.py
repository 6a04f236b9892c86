"""Limit the HTTP connections, in number and in time, so that clients that only open them exclude no other.

uvicorn limits neither the time of a request's head or body nor the number of connections: 1,100 clients that send one
byte of a request each use up the open files of a process with the usual limit of 1024. Its `limit_concurrency` would
answer such clients and everybody else with 503.
"""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from db.logs import frames

if TYPE_CHECKING:
    import asyncio

log = structlog.get_logger()

#: Connections of all addresses, if the limit of open files allows twice as many.
MAX_CONNECTIONS = 1024
#: Connections of one address that wait for their client. A reverse proxy, the address of all readers, keeps fewer idle.
MAX_WAITING_PER_ADDRESS = 128
#: Connections accepted before any of them is limited: the queue of the kernel, and a step of the event loop.
BACKLOG = 256
#: Seconds for the head of a request, from the connection or from the last response.
HEAD_SECONDS = 10.0
#: Seconds for the body of a request, after its head: the largest is a login form.
BODY_SECONDS = 10.0
#: Seconds for a client to read a part of a response.
READ_SECONDS = 30.0
#: Seconds between two log lines about limited connections.
LOG_SECONDS = 60.0


class Phase(Enum):
    """State of a connection: its name and the seconds it may last; None for work of the application."""

    HEAD = "head", HEAD_SECONDS
    BODY = "body", BODY_SECONDS
    RESPONSE = "response", None
    READING = "reading", READ_SECONDS

    def __init__(self, title: str, seconds: float | None) -> None:
        self.title = title
        self.seconds = seconds


class Connections:
    """The connections of one server; use in its event loop only.

    A connection that would exceed a limit is accepted, and the one that has waited longest for its client is closed
    instead: a client that only opens connections must not exclude others.
    """

    def __init__(self, maximum: int | None = None, waiting_per_address: int = MAX_WAITING_PER_ADDRESS) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The other half: accepted but not yet limited connections, database connections, files.
        self._maximum = maximum or min(MAX_CONNECTIONS, soft // 2 if soft > 0 else MAX_CONNECTIONS)
        self._waiting_per_address = waiting_per_address
        #: In the order of connection.
        self._open: dict[LimitedProtocol, None] = {}
        self._closed: Counter[str] = Counter()
        self._log_due = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: LimitedProtocol) -> None:
        """Add a new connection; close others if that exceeds a limit, or this one if all others are being served."""
        waiting = [found for found in self._open if found.phase is not Phase.RESPONSE]
        same_address = [found for found in waiting if found.address == connection.address]
        self._open[connection] = None
        share = sum(found.address == connection.address for found in self._open)
        if len(same_address) >= self._waiting_per_address or share > self._maximum // 2:
            self._close([*same_address, connection][0], "too many of one address")
        elif len(self._open) > self._maximum:
            self._close([*waiting, connection][0], "too many")

    def remove(self, connection: LimitedProtocol) -> None:
        """Forget a connection that has been closed."""
        self._open.pop(connection, None)

    def count(self, cause: str) -> None:
        """Count a connection that failed for *cause*; `sweep` logs the counts."""
        self._closed[cause] += 1

    def sweep(self) -> None:
        """Close the connections whose phase lasts too long; log the causes of closed ones at most every LOG_SECONDS."""
        now = time.monotonic()
        for connection in list(self._open):
            phase = connection.overdue(now)
            if phase is not None:
                self._close(connection, f"slow {phase.title}")
        if self._closed and now >= self._log_due:
            log.warning("connections.closed", causes=dict(self._closed), open=len(self))
            self._closed.clear()
            self._log_due = now + LOG_SECONDS

    def _close(self, connection: LimitedProtocol, cause: str) -> None:
        self.count(cause)
        self.remove(connection)
        connection.transport.abort()


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol for one connection, with its limits and without a log line for each failure."""

    limits: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Add the connection to the limited ones."""
        self.logger = CONNECTION_LOG
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._responses = 0
        self._observed = self._state()
        self._since = time.monotonic()
        self.limits.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self.limits.remove(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Count the response: the next head may take as long as the first."""
        self._responses += 1
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request and count it."""
        self.limits.count("invalid request")
        super().send_400_response(msg)

    @property
    def phase(self) -> Phase:
        """Phase of the current request."""
        if self.transport.get_write_buffer_size():
            return Phase.READING
        if self.cycle is None or self.cycle.response_complete:
            return Phase.HEAD
        return Phase.BODY if self.cycle.more_body else Phase.RESPONSE

    def overdue(self, now: float) -> Phase | None:
        """Return the phase if it has lasted too long without progress, as far as the calls of this method show."""
        state = self._state()
        if state != self._observed:
            self._observed, self._since = state, now
        phase = state[0]
        return phase if phase.seconds is not None and now - self._since > phase.seconds else None

    def _state(self) -> tuple[Phase, int, int]:
        """Phase, responses before, and bytes that the client has not read."""
        return self.phase, self._responses, self.transport.get_write_buffer_size()


def limited(connections: Connections) -> type[LimitedProtocol]:
    """Return the protocol of a server whose connections *connections* limits."""
    return type("ServerProtocol", (LimitedProtocol,), {"limits": connections})


def _log_errors(record: logging.LogRecord) -> bool:
    """Log an exception without its text, which could quote patient data; drop lines that a client causes."""
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        log.error("request.failed", error=type(error).__name__, frames=frames(error))
    return False


CONNECTION_LOG = logging.getLogger("api.connections")
CONNECTION_LOG.addFilter(_log_errors)
