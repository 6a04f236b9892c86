"""Probe a running process: notice one that hangs, accepts connections perhaps, and answers nothing."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds between two probes.
INTERVAL_SECONDS = 10.0
#: Seconds without an answer after which a process hangs, and the failed probes in a row that must lie in this time:
#: under the heaviest load a process answers one of them, and a machine that was suspended has made none.
HANG_SECONDS = 90.0
MIN_FAILURES = 5


class Probe:
    """Call *answers* regularly in a thread; `hung` tells that the process has not answered for too long.

    A process counts from its first answer on; before, it may take *start_seconds*.
    """

    def __init__(self, answers: Callable[[], bool], start_seconds: float) -> None:
        self._answers = answers
        self._start_seconds = start_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self.restart()

    def restart(self) -> None:
        """Begin again, for a process that has just been started."""
        self._since = time.monotonic()
        self._answered = False
        self._failures = 0

    def start(self) -> None:
        """Start the thread; the process is ready."""
        self._since, self._answered = time.monotonic(), True
        self._thread.start()

    def stop(self) -> None:
        """End the thread, without waiting for a probe in progress."""
        self._stopping.set()

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last answer, or since the start of the process."""
        return time.monotonic() - self._since

    @property
    def hung(self) -> bool:
        """True if the process must be killed."""
        limit = HANG_SECONDS if self._answered else max(HANG_SECONDS, self._start_seconds)
        return self._failures >= MIN_FAILURES and self.silent_seconds > limit

    def run_once(self) -> bool:
        """Probe once; return whether the process answered."""
        if self._answers():
            self._since, self._answered, self._failures = time.monotonic(), True, 0
            return True
        self._failures += 1
        return False

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self.run_once()
