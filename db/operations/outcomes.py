"""Outcomes of the latest report jobs by reason, and the alarm for a reason that becomes frequent.

Inquiries do not count: a person reads how each ended, and `prelim retry --reason` is for studies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select, text

from db.errors import Reason
from db.limits import MAX_SKEW
from db.models import Job
from db.states import JobKind, JobState
from db.studies.visibility import canaries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

#: Ended jobs that count; cancelled and superseded ones are no outcome of Prelim's work.
ENDED = (JobState.FINISHED, JobState.FAILED, JobState.NOT_REPORTABLE)
#: Jobs with one reason in the last hour below which a rising share is chance.
MIN_JOBS = 5
#: Share of a reason in the last hour that raises the alarm, and its minimum ratio to the share in the day before.
MIN_SHARE = 0.2
MIN_RATIO = 2.0
#: Reasons by which a person or a rule decides that there is no report: all studies of a day may have them.
INTENDED = frozenset((Reason.STORE_ONLY, Reason.NO_REPORT_TASK, Reason.IDENTITY_REFUSED, Reason.OPERATOR))
HOUR, DAY = text("interval '1 hour'"), text("interval '25 hours'")


class Outcome(NamedTuple):
    """Number of ended jobs with one reason, in the last hour and in the day before; no reason means a report."""

    reason: str | None
    hour: int
    day: int


def latest(session: Session) -> list[Outcome]:
    """Count the report jobs of the last 25 hours by reason."""
    in_hour = Job.finished_at > func.now() - HOUR
    query = (
        select(Job.reason, func.count().filter(in_hour), func.count().filter(~in_hour))
        # What a clock that went back since has dated later than now would count in every hour until then.
        .where(Job.finished_at > func.now() - DAY, Job.finished_at < func.now() + MAX_SKEW)
        .where(Job.state.in_(ENDED), Job.kind == JobKind.REPORT)
        .where(Job.study_id.not_in(canaries()))
        .group_by(Job.reason)
    )
    return [Outcome(*row) for row in session.execute(query)]


def alarm(outcomes: Sequence[Outcome]) -> tuple[str, str] | None:
    """Return code and detail of the alarm for the most frequent reason whose share has risen; None without one.

    Where no study at all got a report since the day before, a share that stays counts, too.
    """
    hour, day = sum(found.hour for found in outcomes), sum(found.day for found in outcomes)
    has_report = any(found.reason is None for found in outcomes)
    for found in sorted(outcomes, key=lambda outcome: -outcome.hour):
        if found.reason is None or found.hour < MIN_JOBS:
            continue
        share, before = found.hour / hour, found.day / day if day else 0.0
        lasts = not has_report and found.reason not in INTENDED
        if share >= MIN_SHARE and (lasts or share >= MIN_RATIO * before):
            return "reason_rising", (
                f"{found.hour} of the {hour} studies of the last hour ended with {found.reason}"
                f" ({share:.0%}; {before:.0%} in the day before): see docs/api.md for its meaning, remove its cause,"
                f" then run `prelim retry --reason {found.reason}`"
            )
    return None
