"""Share of the priority classes: urgent jobs first, but not all the time while others wait."""

from __future__ import annotations

import threading

from db.states import JobKind
from db.studies.priority import ROUTINE

#: Urgent reports that one process claims in a row before it takes a waiting routine one: routine keeps a fourth.
MAX_URGENT_IN_A_ROW = 3
#: Urgent inquiries that it claims in a row before it takes a waiting report: a person waits for each, an answer is
#: short, and only a program asks so many.
MAX_INQUIRIES_IN_A_ROW = 30


class ClassShare:
    """Claims of one process by class, for any number of threads.

    Counted in a row and not by a random draw or a fixed turn: a single urgent job always precedes the next routine one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._urgent_in_a_row = self._inquiries_in_a_row = 0
        #: An inquiry has preceded the routine report whose turn it is.
        self._preceded = False

    @property
    def restricted(self) -> bool:
        """True if the next claim is limited by `routine_only` and `inquiries`, unless no such job waits."""
        return self.routine_only or not self.inquiries

    @property
    def routine_only(self) -> bool:
        """True if the next claim leaves urgent reports: it is the turn of a routine one."""
        return self._urgent_in_a_row >= MAX_URGENT_IN_A_ROW

    @property
    def inquiries(self) -> bool:
        """True if the next claim may be an inquiry: in the turn of a routine report one at most, as others wait."""
        return self._inquiries_in_a_row < MAX_INQUIRIES_IN_A_ROW and not self._preceded

    def claimed(self, priority: int, kind: str = JobKind.REPORT) -> None:
        """Count a claim."""
        with self._lock:
            if priority <= ROUTINE:
                self._urgent_in_a_row = self._inquiries_in_a_row = 0
                self._preceded = False
            elif kind == JobKind.REPORT:
                self._urgent_in_a_row += 1
            else:
                self._inquiries_in_a_row += 1
                self._preceded = self.routine_only
