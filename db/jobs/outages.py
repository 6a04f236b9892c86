"""Outages of the broker: logged when one begins and when it ends, counted in between, shown in `prelim status`."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import structlog

log = structlog.get_logger()

#: Pause after a failure, in seconds, times the number of failures in this outage; an attempt can block for seconds.
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 2.0, 30.0


@dataclass(frozen=True, slots=True)
class Failures:
    """An outage so far: *error* is the type of the latest one, whose text may hold a password; times are monotonic."""

    error: str
    count: int
    since: float
    latest: float


class Outage:
    """State of the broker in this process: an outage if it is unreachable, hangs, is full or read-only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: Failures | None = None

    def failed(self, error: BaseException) -> None:
        """Count a failure; log the first one."""
        now, name = time.monotonic(), type(error).__name__
        with self._lock:
            before = self._failures
            since, count = (before.since, before.count + 1) if before else (now, 1)
            self._failures = Failures(name, count, since, now)
        if before is None:
            log.warning("broker.unreachable", error=name)

    def succeeded(self) -> None:
        """Log the end of an outage."""
        with self._lock:
            ended, self._failures = self._failures, None
        if ended is not None:
            seconds = round(time.monotonic() - ended.since, 1)
            log.info("broker.reachable", seconds=seconds, failures=ended.count)

    @property
    def on(self) -> bool:
        """True from the first failure to the next success."""
        return self._failures is not None

    @property
    def resting(self) -> bool:
        """True while no attempt is worth its time, because the latest one has just failed."""
        failures = self._failures
        if failures is None:
            return False
        return time.monotonic() < failures.latest + min(PAUSE_SECONDS * failures.count, MAX_PAUSE_SECONDS)

    @property
    def info(self) -> dict[str, Any] | None:
        """Return figures for a heartbeat; None if the broker works."""
        failures = self._failures
        if failures is None:
            return None
        seconds = round(time.monotonic() - failures.since)
        return {"error": failures.error, "failures": failures.count, "seconds": seconds}
