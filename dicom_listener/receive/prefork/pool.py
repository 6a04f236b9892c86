"""Keep a number of children running: replace those that end, freeze, lack descriptors or are outdated."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicom_listener.receive.prefork.children import ChildProcess

log = structlog.get_logger()

#: Seconds between two rounds from which this process itself was frozen, and silent children are not at fault.
OWN_PAUSE_SECONDS = 2.0
#: Seconds until the next start after a child has ended before it was ready: at first, and at most after several.
MIN_RESTART_SECONDS, MAX_RESTART_SECONDS = 0.1, 5.0
#: Failed starts after which that time no longer grows: without a limit, its power overflows after 1,024 of them.
MAX_DOUBLINGS = 10
#: Seconds for a first child to be ready, unless one still starts; then the listener ends, as a single process would.
FIRST_START_SECONDS = 5.0


class Pool:
    """The children of this process."""

    def __init__(self, number: int, start: Callable[[], ChildProcess]) -> None:
        """Keep *number* children; *start* returns a new one, and raises OSError."""
        self._number = number
        self._start = start
        self.children: list[ChildProcess] = []
        #: Children to be replaced one by one, the next one first.
        self._outdated: deque[ChildProcess] = deque()
        #: Processes that have closed their channel, and may still be ending.
        self._ending: set[int] = set()
        self._created_at = self._checked_at = time.monotonic()
        self._start_due = 0.0
        #: True after a first child was ready.
        self._has_received = False
        #: Cause of the last start that has failed.
        self.failure = "see the log"
        #: Starts that have failed since the last one that has not.
        self._failures = 0

    @property
    def active(self) -> list[ChildProcess]:
        """The children that get connections, or will when they are ready."""
        return [child for child in self.children if not child.draining]

    def available(self) -> list[ChildProcess]:
        """Return the children that can get a connection now: those with the fewest first, and of these in turn."""
        available = (child for child in self.children if child.is_available())
        return sorted(available, key=lambda child: (len(child.connections), child.given_at))

    def outdate_all(self) -> None:
        """Replace all children, one by one."""
        self._outdated.extend(child for child in self.active if child not in self._outdated)

    def note_ready(self, child: ChildProcess) -> None:
        """Note that a child is ready."""
        child.ready = self._has_received = True
        child.beat_at = time.monotonic()
        self._failures = 0

    def lose(self, child: ChildProcess) -> None:
        """Remove a child that has ended or closed its channel."""
        child.channel.close()
        self.children.remove(child)
        self._ending.add(child.pid)
        child.kill()
        if not child.draining:
            log.error("listener.process_lost", process=child.pid, connections=len(child.connections))
        if not child.ready:
            self._delay_start()

    def supervise(self) -> None:
        """Run one round: kill children that have failed, replace outdated ones, start missing ones.

        Raises ConfigurationError if no child was ever ready, and none can be.
        """
        now = time.monotonic()
        if now - self._checked_at > OWN_PAUSE_SECONDS:
            for child in self.children:
                child.beat_at = now
        self._checked_at = now
        for child in self.children:
            child.flush()
            if child.has_failed():
                log.error("listener.process_frozen", process=child.pid, connections=len(child.connections))
                child.kill()
        self.reap()
        self._require_first()
        self._replace()

    def send(self, kind: str, **values: Any) -> None:
        """Send a message to all children."""
        for child in self.children:
            child.send(kind, **values)

    def reap(self, *, wait: bool = False) -> None:
        """Let the kernel forget the processes that have ended; *wait* for those that are still ending."""
        for pid in list(self._ending):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, 0 if wait else os.WNOHANG)[0] == 0:
                    continue
            self._ending.remove(pid)

    def start_missing(self) -> None:
        """Start the children that are missing, and one more while outdated ones are replaced."""
        wanted = self._number + bool(self._outdated)
        while len(self.active) < wanted and time.monotonic() >= self._start_due:
            try:
                self.children.append(self._start())
            except OSError as error:  # no process or memory is free
                log.error("listener.process_not_started", error=error.strerror)  # noqa: TRY400 - no fault of the program
                self.failure = str(error)
                self._delay_start()

    def _require_first(self) -> None:
        """Raise ConfigurationError if all starts have failed: connections would wait unanswered."""
        if self._has_received or self.children or time.monotonic() - self._created_at < FIRST_START_SECONDS:
            return
        raise ConfigurationError(f"no process of the listener can start: {self.failure}")

    def _replace(self) -> None:
        """Let an outdated child end once another has taken its place."""
        self._outdated.extend(child for child in self.active if child.full and child not in self._outdated)
        self._outdated = deque(child for child in self._outdated if child in self.children)
        self.start_missing()
        ready = sum(child.ready or child in self._outdated for child in self.active)
        if self._outdated and ready > self._number:
            child = self._outdated.popleft()
            child.draining = True
            child.send("drain")
            log.info("listener.process_drained", process=child.pid, connections=len(child.connections))

    def _delay_start(self) -> None:
        self._start_due = time.monotonic() + min(MIN_RESTART_SECONDS * 2**self._failures, MAX_RESTART_SECONDS)
        self._failures = min(self._failures + 1, MAX_DOUBLINGS)
