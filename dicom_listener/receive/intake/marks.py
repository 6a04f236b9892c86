"""Measure disk and backlog, and state what is received now: everything, urgent objects only, or nothing.

A mark that is reached holds until the value has fallen clearly below it: a value that swings around a mark would change
the answer to a sender with every object.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from db.operations import disk
from db.operations.listener_status import Level
from dicom_listener.dicom.statuses import OutOfResources
from dicom_listener.spool.inbox_listing import received

if TYPE_CHECKING:
    from db.operations.disk import Disk
    from db.settings.reception import Dicom
    from dicom_listener.spool.durable import Spool

log = structlog.get_logger()

#: Seconds between two measurements of the disk.
MEASURE_SECONDS = 1.0
#: Seconds between two counts of the waiting files; longer if a count takes more than a share of that on a processor.
COUNT_SECONDS, COUNT_SHARE = 5.0, 20
#: Fall below a mark that ends it: percentage points of the disk, and part of the backlog.
DISK_FALL, BACKLOG_FALL = 2.0, 0.1
#: Part of the limit of the backlog from which an alarm is raised.
BACKLOG_WARN = 0.8


def level_of(measured: Disk, waiting: int, limits: Dicom, before: Level) -> tuple[Level, str]:
    """Return what is received, and why not everything; *before* is the level until now."""
    if measured.lacks is not None:
        return Level.CLOSED, f"the disk has no {measured.lacks} beyond the reserve"
    backlog = limits.urgent_only_backlog
    marks = {
        Level.ONLY_URGENT: (limits.urgent_only_disk_percent, backlog),
        Level.NEAR: (limits.warn_disk_percent, backlog * BACKLOG_WARN),
    }
    for level, (of_disk, of_backlog) in marks.items():
        holds = before.value >= level.value
        if measured.used_percent >= of_disk - DISK_FALL * holds:
            return level, f"{measured.used_percent:.0f} % of the disk of the spool are used"
        if waiting >= of_backlog * (1 - BACKLOG_FALL * holds):
            return level, f"{waiting} received files wait to be indexed"
    return Level.OPEN, ""


class Intake:
    """The level of one listener process; a thread measures it, so that a disk that hangs delays no association."""

    def __init__(self, spool: Spool, limits: Dicom) -> None:
        self._spool = spool
        self._limits = limits
        self.level, self.cause = Level.OPEN, ""
        self._waiting = 0
        self._count_due = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dicom-intake", daemon=True)

    def start(self) -> None:
        """Measure, and go on measuring."""
        self.measure()
        self._thread.start()

    def close(self) -> None:
        """Stop measuring; no effect before `start`."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(MEASURE_SECONDS)

    @property
    def only_urgent(self) -> bool:
        """True while a routine object is refused."""
        return self.level.value >= Level.ONLY_URGENT.value

    @property
    def info(self) -> dict[str, Any]:
        """Level and cause, for the status of the listener."""
        return {"level": self.level.name.lower(), "cause": self.cause}

    def measure(self) -> None:
        """Measure disk and backlog once; a disk that cannot be measured leaves the level as it is."""
        with contextlib.suppress(OSError):  # the next object fails on the same disk, and its sender gets the status
            if time.monotonic() >= self._count_due:
                self._count()
            before = self.level
            measured = disk.measure(self._spool.root)
            self.level, self.cause = level_of(measured, self._waiting, self._limits, before)
            if self.level is not before:
                log.warning("intake.changed", level=self.level.name.lower(), cause=self.cause)

    def _count(self) -> None:
        began = time.thread_time()
        self._waiting = sum(1 for _ in received(self._spool, []))
        self._count_due = time.monotonic() + max(COUNT_SECONDS, COUNT_SHARE * (time.thread_time() - began))

    def _run(self) -> None:
        while not self._closed.wait(MEASURE_SECONDS):
            self.measure()


def only_urgent() -> OutOfResources:
    """Return the refusal of a routine object; its text is one of a limited number, for counters."""
    return OutOfResources("only urgent objects are received now; send it again later")
