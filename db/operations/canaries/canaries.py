"""Canaries: phantom studies that the installation sends to itself, end to end, and expects a report of.

A canary is known by its row, written before it is sent, and not by an AE title, which any sender may use: nobody else
can hide a study from the work list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, select, text, update

from db.limits import MAX_SKEW
from db.models import Canary, Study
from db.models.studies import ENDED_WITHOUT_REPORT
from db.states import StudyState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

#: Intervals without a reported canary after which the alarm is raised: two canaries are missed, and half of one is
#: time for the next.
MISSED_INTERVALS = 2.5
#: Age of a row at which it is deleted; far above the age that raises the alarm.
KEPT = text("interval '7 days'")
ENDED = (StudyState.REPORTED, *ENDED_WITHOUT_REPORT)


def begin(session: Session, study_instance_uid: str) -> None:
    """Record a canary that is about to be sent, and forget old ones whose studies are deleted."""
    old = Canary.begun_at < func.now() - KEPT
    study = exists().where(Study.study_instance_uid == Canary.study_instance_uid)
    session.execute(delete(Canary).where(old, ~study))
    session.add(Canary(study_instance_uid=study_instance_uid))


def result(session: Session, study_instance_uid: str) -> str | None:
    """Return the problem of a canary whose study ended, empty if it has its report; None while it is pending."""
    columns = select(Study.state, Study.reason).where(Study.study_instance_uid == study_instance_uid)
    row = session.execute(columns.order_by(Study.identity_number).limit(1)).one_or_none()
    if row is None or row.state not in ENDED:
        return None
    return "" if row.state == StudyState.REPORTED else f"{row.state}: {row.reason}"


def end(session: Session, study_instance_uid: str, problem: str) -> None:
    """Record how a canary ended; *problem* is empty if it has its report."""
    ended = update(Canary).where(Canary.study_instance_uid == study_instance_uid)
    session.execute(ended.values(ended_at=func.clock_timestamp(), problem=problem))


def ended_studies(session: Session) -> Sequence[str]:
    """Return the Study Instance UIDs of canaries whose studies have ended and are not deleted."""
    studies = select(Study.study_instance_uid).join(Canary, Canary.study_instance_uid == Study.study_instance_uid)
    return session.scalars(studies.where(Study.state.in_(ENDED)).distinct()).all()


def seconds_since_last(session: Session) -> float | None:
    """Return the time since the last canary began; None if there is none.

    One that a wrong clock has dated later than now does not count: no canary would be sent until then.
    """
    latest = func.max(Canary.begun_at).filter(Canary.begun_at < func.now() + MAX_SKEW)
    age = func.extract("epoch", func.clock_timestamp() - latest)
    seconds = session.scalar(select(age))
    return None if seconds is None else float(seconds)


def alarm(age: float | None, problem: str | None, interval: float) -> tuple[str, str] | None:
    """Return the alarm for two canaries without a report, also if none was ever sent; none if they are switched off.

    *age* is the time since the last one with a report or, before the first one, since canaries are due.
    """
    if age is None or not interval or age <= MISSED_INTERVALS * interval:
        return None
    last = f"; the last problem: {problem}" if problem else ""
    return "canary_missed", (
        f"no canary got its report for {age / 60:.0f} min{last}: the way from the DICOM port to the report is"
        " interrupted, or `prelim canary` does not run; see its log and `prelim doctor`"
    )
