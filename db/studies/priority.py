"""Order of the queue: STAT before routine, without starving low priorities."""

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
#: Seconds of waiting that one step of priority is worth: longer than a usual queue of urgent studies takes.
HEAD_START_SECONDS = 3600


def highest(*priorities: int) -> int:
    """Return the highest priority other than routine, which is also the default of senders that set none."""
    return max((priority for priority in priorities if priority != ROUTINE), default=ROUTINE)


def effective_queued_at(priority: int) -> ColumnElement[dt.datetime]:
    """Time at which a job queued now counts as queued: now minus a head start for each step of priority.

    It includes ageing: a routine job precedes an urgent one that is queued more than the head start later.
    """
    return func.clock_timestamp() - dt.timedelta(seconds=HEAD_START_SECONDS * priority)
