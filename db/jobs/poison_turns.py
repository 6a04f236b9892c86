"""Turns of poison candidates: when a process stops taking other jobs, and locks for the claims of both kinds."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.orm import Session

#: Seconds for which a process takes other jobs although a poison candidate waits: also after a restart, so that
#: candidates that kill the process in a row leave time to the others.
TURN_SECONDS = 30.0
#: Turns are spread by up to this fraction, so that several processes do not become idle for one candidate.
SPREAD = 0.5
#: Interval at which a process looks for waiting candidates, in seconds.
LOOK_SECONDS = 1.0
CANDIDATE_WAITS = text("""
    SELECT EXISTS (
        SELECT FROM jobs
        WHERE state = 'queued' AND reason IN ('lease_expired', 'no_progress', 'gpu_lost')
            AND available_at <= clock_timestamp())
""")


def candidate_waits(session: Session) -> bool:
    """Return whether a poison candidate can be claimed by a process that runs nothing."""
    return bool(session.scalar(CANDIDATE_WAITS))


class PoisonTurns:
    """The next turn of a poison candidate in this process, which must be idle for it; for any number of threads.

    *waits* returns whether a candidate waits in the queue.
    """

    def __init__(self, waits: Callable[[], bool]) -> None:
        self._waits = waits
        self._look_at = 0.0
        self._due_at = math.inf
        self._condition = threading.Condition()
        self._sharing = 0

    def due(self) -> bool:
        """Return whether a candidate has waited for so long that no other job may be claimed before it."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            if not self._waits():
                self._due_at = math.inf
            elif self._due_at == math.inf:
                # Not cryptographic: it spreads the load.
                self._due_at = now + TURN_SECONDS * (1 + random.uniform(-SPREAD, SPREAD))  # noqa: S311
        return now >= self._due_at

    def taken(self) -> None:
        """Begin to wait for the next turn."""
        self._due_at = math.inf

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        """Make a claim that cannot return a candidate, beside others of this kind."""
        with self._condition:
            self._sharing += 1
        try:
            yield
        finally:
            with self._condition:
                self._sharing -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Make a claim that may return a candidate, beside no other claim."""
        with self._condition:
            self._condition.wait_for(lambda: not self._sharing)
            yield
