"""Order of the queue: classes of priority, each in the order of arrival (db.jobs.class_share has their shares)."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from sqlalchemy import func

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

#: Priorities: DICOM message priorities (PS3.7 E.1) and Requested Procedure Priority (0040,1003).
LOW, ROUTINE, HIGH, STAT = -1, 0, 1, 2
#: By the names used in settings and in Requested Procedure Priority (PS3.3 C.4.11).
LEVELS = {"LOW": LOW, "ROUTINE": ROUTINE, "MEDIUM": ROUTINE, "HIGH": HIGH, "STAT": STAT}
#: Seconds between two classes in the order of the queue: ten years, so that no waiting time moves a job into another
#: class. A head start of an hour would put every STAT study behind the whole backlog of a longer outage.
CLASS_SECONDS = 315_360_000


def is_urgent(word: str) -> bool:
    """Return whether *word* names a priority above routine."""
    return LEVELS.get(word, ROUTINE) > ROUTINE


def highest(*priorities: int) -> int:
    """Return the highest priority other than routine, which is also the default of senders that set none."""
    return max((priority for priority in priorities if priority != ROUTINE), default=ROUTINE)


def effective_queued_at(priority: int) -> ColumnElement[dt.datetime]:
    """Order of a job that is queued now: its class, then the time."""
    return func.clock_timestamp() - dt.timedelta(seconds=CLASS_SECONDS * priority)
