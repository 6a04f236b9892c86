"""Share of the priority classes: urgent jobs first, but not all the time while others wait."""

from __future__ import annotations

import threading

from db.states import JobKind
from db.studies.priority import ROUTINE

#: Urgent reports that one process claims in a row before it takes a waiting routine one: routine keeps a fourth.
MAX_URGENT_IN_A_ROW = 3
#: Urgent inquiries that it claims before: a person waits for each, an answer is short, and only a program asks so many.
MAX_INQUIRIES_IN_A_ROW = 30


class ClassShare:
    """Claims of one process by class, for any number of threads.

    Counted in a row and not by a random draw or a fixed turn: a single urgent job always precedes the next routine one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._urgent_in_a_row = self._inquiries_in_a_row = 0

    @property
    def routine_first(self) -> bool:
        """True if the next claim belongs to the routine jobs, and to the inquiries while `inquiries`, if any waits."""
        return self._urgent_in_a_row >= MAX_URGENT_IN_A_ROW or not self.inquiries

    @property
    def inquiries(self) -> bool:
        """True if an inquiry may precede the routine jobs."""
        return self._inquiries_in_a_row < MAX_INQUIRIES_IN_A_ROW

    def claimed(self, priority: int, kind: str = JobKind.REPORT) -> None:
        """Count a claim."""
        with self._lock:
            if priority <= ROUTINE:
                self._urgent_in_a_row = self._inquiries_in_a_row = 0
            elif kind == JobKind.REPORT:
                self._urgent_in_a_row += 1
            else:
                self._inquiries_in_a_row += 1
