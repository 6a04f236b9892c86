"""What an operator must see although every process looks alive: work that is there and does not get done.

A worker can be connected to Redis and consume nothing (celery issue 10302), so aliveness proves little. The database
knows what waits and when something was last claimed or written; that is what is asked here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from db import processes
from db.models import Job, Report, Study

if TYPE_CHECKING:
    import datetime as dt

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

#: Every code that an alarm can have.
CODES = ("no_worker", "nothing_claimed", "nothing_written", "no_dispatcher")


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that needs a person: a stable code, and a sentence that says what to do."""

    code: str
    detail: str


def raised(session: Session, *, after_seconds: float) -> list[Alarm]:
    """The alarms of this moment, for work that has not moved for *after_seconds*; none is the good news."""
    waiting = _seconds_since(
        session, select(func.min(func.greatest(Job.queued_at, Job.available_at))), Job.state == "queued"
    )
    if waiting is None or waiting < after_seconds:
        return _unsettled(session, after_seconds)
    if not processes.alive(session, "worker"):
        return [Alarm("no_worker", f"a report waits for {waiting:.0f} s and no worker is alive: start `prelim work`")]
    claimed = _seconds_since(session, select(func.max(Job.claimed_at)))
    if claimed is None or claimed >= after_seconds:
        return [
            Alarm(
                "nothing_claimed",
                f"a report waits for {waiting:.0f} s; workers are alive but claim nothing: restart them, look at Redis",
            )
        ]
    return _unwritten(session, after_seconds)


def _unwritten(session: Session, after_seconds: float) -> list[Alarm]:
    written = _seconds_since(session, select(func.max(Report.created_at)))
    if written is not None and written < after_seconds:
        return []
    return [
        Alarm(
            "nothing_written",
            "reports wait and are claimed, but none is written: see `prelim status`, the workers' logs",
        )
    ]


def _unsettled(session: Session, after_seconds: float) -> list[Alarm]:
    arriving = _seconds_since(session, select(func.min(Study.last_received_at)), Study.state == "receiving")
    if arriving is None or arriving < after_seconds or processes.alive(session, "dispatcher"):
        return []
    return [Alarm("no_dispatcher", "studies arrive and no dispatcher is alive: start `prelim dispatch`")]


def _seconds_since(session: Session, query: Select[tuple[dt.datetime]], *where: ColumnElement[bool]) -> float | None:
    moment = query.where(*where).scalar_subquery()
    seconds = session.scalar(select(func.extract("epoch", func.clock_timestamp() - moment)))
    return None if seconds is None else float(seconds)
