"""Delay the restarts of a process that keeps ending."""

import time

MAX_PAUSE_SECONDS = 30.0  # an operator who removes the cause sees the effect soon
STEADY_SECONDS = 60.0  # a process that ran this long is not in a crash loop


class Restarts:
    """Restart times of one process: immediately, then after 1, 2, 4 ... MAX_PAUSE_SECONDS."""

    def __init__(self) -> None:
        self._failures = 0
        self._started = time.monotonic()
        self.due: float | None = None

    def schedule(self) -> float:
        """Record an end; return the pause before the next start, in seconds."""
        now = time.monotonic()
        if now - self._started > STEADY_SECONDS:
            self._failures = 0
        pause = min(2.0 ** (self._failures - 1), MAX_PAUSE_SECONDS) if self._failures else 0.0
        self._failures += 1
        self.due = now + pause
        return pause

    def record_start(self) -> None:
        """Record a start; none is due."""
        self._started = time.monotonic()
        self.due = None
