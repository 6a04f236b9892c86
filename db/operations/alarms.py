"""What an operator must see although every process looks alive: work that is there and does not get done.

A worker can be connected to Redis and consume nothing (celery issue 10302), so aliveness proves little. The database
knows what waits and when something was last claimed or written; that is what is asked here.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exists, func, or_, select

from db.models import Job, Process, Report, Study
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.states import JobState, StudyState

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

#: Every code that an alarm can have.
CODES = (
    "no_worker",
    "nothing_claimed",
    "nothing_written",
    "everything_fails",
    "not_rescued",
    "no_dispatcher",
    "nothing_settled",
)
#: So many failed studies in a row are no longer the studies' fault. Two can be a coincidence.
FAILED_IN_A_ROW = 3
#: Failures of older studies raise no alarm: the work list has them. A day, for sites that get a study an hour.
RECENT = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that needs a person: a stable code, and a sentence that says what to do."""

    code: str
    detail: str


def raised(session: Session, *, after_seconds: float, cap_seconds: float) -> list[Alarm]:
    """The alarms of this moment, for work that has not moved for *after_seconds*; none is the good news.

    *cap_seconds* is the longest that a study may arrive before it is judged complete.
    """
    found = (
        _waiting(session, after_seconds),
        _failing(session),
        _not_rescued(session, after_seconds),
        _no_dispatcher(session),
        _unsettled(session, cap_seconds + after_seconds),
    )
    return [alarm for alarm in found if alarm is not None]


def _waiting(session: Session, after_seconds: float) -> Alarm | None:
    """The first of the steps to a waiting report that is not taken."""
    oldest = select(func.min(func.greatest(Job.queued_at, Job.available_at)))
    waiting = _seconds_since(session, oldest, Job.state == JobState.QUEUED)
    if waiting is None or waiting < after_seconds:
        return None
    if not heartbeats.alive(session, Role.WORKER):
        return Alarm("no_worker", f"a report waits for {waiting:.0f} s and no worker is alive: start `prelim work`")
    if not _within(_seconds_since(session, select(func.max(Job.claimed_at))), after_seconds):
        return Alarm(
            "nothing_claimed",
            f"a report waits for {waiting:.0f} s; workers are alive but claim nothing: restart them, look at Redis",
        )
    if not _within(_seconds_since(session, select(func.max(Report.created_at))), after_seconds):
        return Alarm(
            "nothing_written",
            "reports wait and are claimed, but none is written: see `prelim status`, the workers' logs",
        )
    return None


def _failing(session: Session) -> Alarm | None:
    """Every recent study fails; what is not reportable or cancelled says nothing about the house."""
    ended = (
        select(Job.state)
        .join(Study, (Study.id == Job.study_id) & (Study.revision == Job.revision))
        # now() and not clock_timestamp(), which changes from row to row: no index helps to find what it is compared to.
        .where(Study.first_received_at > func.now() - RECENT, Job.state.in_((JobState.FINISHED, JobState.FAILED)))
        .order_by(Job.finished_at.desc())
        .limit(FAILED_IN_A_ROW)
    )
    if session.scalars(ended).all() != [JobState.FAILED] * FAILED_IN_A_ROW:
        return None
    return Alarm(
        "everything_fails",
        f"the last {FAILED_IN_A_ROW} studies failed one after the other and no report was written:"
        " see the last error in `prelim status`, mend it, then `prelim retry` them",
    )


def _not_rescued(session: Session, after_seconds: float) -> Alarm | None:
    expired = _seconds_since(session, select(func.min(Job.lease_until)), Job.state == JobState.RUNNING)
    if expired is None or expired < after_seconds:
        return None
    return Alarm(
        "not_rescued",
        f"the worker of a report has been gone for {expired:.0f} s and no other got the report:"
        " start `prelim dispatch` again, it gives it to another; see its log",
    )


def _no_dispatcher(session: Session) -> Alarm | None:
    """Without one nothing is indexed, settled or rescued; a house where nothing has happened yet may lack it."""
    in_use = select(or_(exists(select(Process.name)), exists(select(Study.id))))
    if heartbeats.alive(session, Role.DISPATCHER) or not session.scalar(in_use):
        return None
    return Alarm("no_dispatcher", "no dispatcher is alive, what arrives gets no report: start `prelim dispatch`")


def _unsettled(session: Session, after_seconds: float) -> Alarm | None:
    arriving = _seconds_since(session, select(func.min(Study.revision_started_at)), Study.state == StudyState.RECEIVING)
    if arriving is None or arriving < after_seconds:
        return None
    return Alarm(
        "nothing_settled",
        f"a study has been arriving for {arriving:.0f} s and is not judged complete:"
        " start `prelim dispatch` again; see its log",
    )


def _within(seconds: float | None, limit: float) -> bool:
    return seconds is not None and seconds < limit


def _seconds_since(session: Session, query: Select[tuple[dt.datetime]], *where: ColumnElement[bool]) -> float | None:
    """Negative where the moment is still to come."""
    moment = query.where(*where).scalar_subquery()
    seconds = session.scalar(select(func.extract("epoch", func.clock_timestamp() - moment)))
    return None if seconds is None else float(seconds)
