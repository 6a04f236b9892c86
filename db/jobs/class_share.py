"""Share of the priority classes: urgent jobs first, but not all the time while others wait."""

from __future__ import annotations

import threading

from db.studies.priority import ROUTINE

#: Urgent jobs that one process claims in a row before it takes a waiting routine one: routine keeps a fourth.
MAX_URGENT_IN_A_ROW = 3


class ClassShare:
    """Claims of one process by class, for any number of threads.

    Counted in a row and not by a random draw or a fixed turn: a single urgent job always precedes the next routine one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._urgent_in_a_row = 0

    @property
    def routine_first(self) -> bool:
        """True if the next claim belongs to the routine jobs, if any waits."""
        return self._urgent_in_a_row >= MAX_URGENT_IN_A_ROW

    def claimed(self, priority: int) -> None:
        """Count a claim."""
        with self._lock:
            self._urgent_in_a_row = self._urgent_in_a_row + 1 if priority > ROUTINE else 0
