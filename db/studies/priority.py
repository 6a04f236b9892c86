"""The order of the queue: STAT before routine, and nobody starves."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from sqlalchemy import func

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

#: Priorities of a study, as modalities and orders name them (DICOM PS3.7 E.1-1 LOW/MEDIUM/HIGH; (0040,1003)).
LOW, ROUTINE, HIGH, STAT = -1, 0, 1, 2
#: By the names that sites and (0040,1003) Requested Procedure Priority (PS3.3 C.4.11) give them.
LEVELS = {"LOW": LOW, "ROUTINE": ROUTINE, "MEDIUM": ROUTINE, "HIGH": HIGH, "STAT": STAT}
#: One step of priority counts as having waited this much longer: an hour is more than a usual queue of urgent studies.
HEAD_START_SECONDS = 3600


def agreed(*said: int) -> int:
    """The priority on which several sources agree: routine says nothing, of the others the highest counts."""
    return max((priority for priority in said if priority != ROUTINE), default=ROUTINE)


def urgent_at(priority: int) -> ColumnElement[dt.datetime]:
    """The moment at which a job queued now counts as queued: now, less a head start for each step of priority.

    Ageing comes for free: a routine job goes before every urgent one that was queued more than the head start later.
    """
    return func.clock_timestamp() - dt.timedelta(seconds=HEAD_START_SECONDS * priority)
