"""The pauses between the starts of something that keeps ending."""

from __future__ import annotations

import time

LONGEST_PAUSE_SECONDS = 30.0  # an operator who repairs the cause sees the effect soon
STEADY_SECONDS = 60.0  # who lived this long is not in a crash loop


class Restarts:
    """When to start one of them again: at once, then after 1, 2, 4 ... LONGEST_PAUSE_SECONDS."""

    def __init__(self) -> None:
        self._failures = 0
        self._started = time.monotonic()
        self.due: float | None = None

    def plan(self) -> float:
        """Take note of an end; the pause before the next start, in seconds."""
        now = time.monotonic()
        if now - self._started > STEADY_SECONDS:
            self._failures = 0
        pause = min(2.0 ** (self._failures - 1), LONGEST_PAUSE_SECONDS) if self._failures else 0.0
        self._failures += 1
        self.due = now + pause
        return pause

    def began(self) -> None:
        """Take note of a start."""
        self._started = time.monotonic()
        self.due = None
