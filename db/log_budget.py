"""Limit the log lines that peers can cause."""

from __future__ import annotations

import threading
import time

import structlog

log = structlog.get_logger()

#: Log lines a minute, all peers together: in a busy hospital one or two connections end in a second.
MAX_LINES_PER_MINUTE = 600


class LogBudget:
    """Allow MAX_LINES_PER_MINUTE lines, so that a peer cannot fill the disk with them.

    The rest is counted in one, *event*, when a later line is due.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._lock = threading.Lock()
        self._minute_ends = 0.0
        self._lines = 0

    def allows(self) -> bool:
        """Return whether one more line may be written."""
        now = time.monotonic()
        with self._lock:
            if now >= self._minute_ends:
                if self._lines > MAX_LINES_PER_MINUTE:
                    log.warning(self._event, count=self._lines - MAX_LINES_PER_MINUTE)
                self._minute_ends, self._lines = now + 60, 0
            self._lines += 1
            return self._lines <= MAX_LINES_PER_MINUTE
