"""Rescue: jobs whose lease has expired are queued again, or fail; what is dated later than now goes on."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, cast

import structlog
from sqlalchemy import func, or_, select, text

from db.errors import Reason
from db.models import Job, Process, Study
from db.models.operations import ALIVE_SECONDS
from db.session import transaction
from db.states import JobKind, JobState, StudyState
from db.studies import lifecycle

if TYPE_CHECKING:
    import uuid

    from sqlalchemy import CursorResult, Row, Select
    from sqlalchemy.orm import Session

log = structlog.get_logger()

#: Jobs rescued in one round of the dispatcher.
BATCH = 100
#: Rows of one kind that are dated to now in one round.
BRINGS_BACK = 1000
EXPIRED = Job.state == JobState.RUNNING, Job.lease_until < func.clock_timestamp()


#: Seconds by which the clocks of a primary and its standbys may differ, and beyond any pause and lease.
MAX_SKEW_SECONDS, MAX_AHEAD_SECONDS = 60, 3600
#: Rows that the database's clock has dated later than now, before it went back: they would wait until then, and no
#: alarm would compare them. A process whose time is in the future has ended, or writes the next one soon.
BRING_BACK = {
    "studies": text("""
        UPDATE studies SET last_received_at = least(last_received_at, now()),
            revision_started_at = least(revision_started_at, now())
        WHERE id IN (
            SELECT id FROM studies WHERE state = 'receiving'
                AND greatest(last_received_at, revision_started_at) > now() + make_interval(secs => :skew)
            ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED)
    """),
    "jobs": text("""
        UPDATE jobs SET queued_at = least(queued_at, now()), available_at = least(available_at, now()), sent_at = NULL,
            urgent_at = urgent_at - greatest(queued_at - now(), interval '0')
        WHERE id IN (
            SELECT id FROM jobs WHERE state = 'queued'
                AND (greatest(queued_at, sent_at) > now() + make_interval(secs => :skew)
                    OR available_at > now() + make_interval(secs => :ahead))
            ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED)
    """),
    "leases": text("""
        UPDATE jobs SET lease_until = now() + make_interval(secs => :ahead)
        WHERE id IN (
            SELECT id FROM jobs WHERE state = 'running' AND lease_until > now() + 2 * make_interval(secs => :ahead)
            ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED)
    """),
    "processes": text("UPDATE processes SET seen_at = now() WHERE seen_at > now() + make_interval(secs => :skew)"),
}


def bring_back(url: str, lease_seconds: float) -> dict[str, int]:
    """Date pending work that is dated later than now to now; return the number of rows by kind, without zeros."""
    found = {}
    for kind in BRING_BACK:
        with transaction(url) as session:
            if rows := bring_back_some(session, kind, lease_seconds):
                found[kind] = rows
    if found:
        log.warning("database.clock_went_back", **found)
    return found


def bring_back_some(session: Session, kind: str, lease_seconds: float) -> int:
    """Date some rows of one kind to now; return their number."""
    values = {"skew": MAX_SKEW_SECONDS, "ahead": max(MAX_AHEAD_SECONDS, lease_seconds), "batch": BRINGS_BACK}
    given = {name: value for name, value in values.items() if f":{name}" in BRING_BACK[kind].text}
    return cast("CursorResult[Any]", session.execute(BRING_BACK[kind], given)).rowcount


def rescue(url: str, *, max_attempts: int) -> int:
    """Queue jobs with an expired lease again, or fail them after *max_attempts*; return their number.

    A last attempt waits for evidence: its reason is WORKER_LOST only if its worker has no heartbeat any more. Each job
    has its own transaction, so that no lock of one study is held while another is awaited.
    """
    with transaction(url) as session:
        expired = session.execute(_expired(max_attempts)).all()
    return sum(_rescue_one(url, row, max_attempts) for row in expired)


def _rescue_one(url: str, row: Row[uuid.UUID, uuid.UUID, bool], max_attempts: int) -> bool:
    job_id, study_id, lost = row
    with transaction(url) as session:
        # A locked study is left to the next round: its report is being stored, or its images are.
        study = select(Study.id).where(Study.id == study_id).with_for_update(skip_locked=True)
        if session.scalar(study) is None:
            return False
        # Read again under the lock: its owner may have finished, or another dispatcher may have rescued it.
        job = session.scalars(
            select(Job).where(Job.id == job_id, *EXPIRED).with_for_update(skip_locked=True)
        ).one_or_none()
        if job is not None:
            _give_up_or_requeue(session, job, max_attempts, lost=lost)
        return job is not None


def _expired(max_attempts: int) -> Select[uuid.UUID, uuid.UUID, bool]:
    """Return the query of jobs to rescue: id, study, and whether the worker is lost.

    A process that started after the claim is another one, although it has the name of the worker, as in a container.
    """
    silence = func.clock_timestamp() - Process.seen_at
    lost = or_(
        Process.name.is_(None),
        silence > dt.timedelta(seconds=ALIVE_SECONDS),
        Process.started_at > Job.claimed_at,
    )
    known = or_(lost, Process.seen_at > Job.lease_until)
    return (
        select(Job.id, Job.study_id, lost)
        .outerjoin(Process, Process.name == Job.owner)
        .where(*EXPIRED, or_(Job.attempt < max_attempts, known))
        .order_by(Job.lease_until)
        .limit(BATCH)
    )


def _give_up_or_requeue(session: Session, job: Job, max_attempts: int, *, lost: bool) -> None:
    job.lease_until = None
    if job.attempt < max_attempts:
        job.state, job.owner, job.sent_at = JobState.QUEUED, None, None
        job.reason, job.detail = Reason.LEASE_EXPIRED, "the worker died, froze or could not reach the database"
        return
    job.state, job.finished_at = JobState.FAILED, func.clock_timestamp()
    job.reason = Reason.WORKER_LOST if lost else Reason.LEASE_EXPIRED
    cause = "the worker died" if lost else "the worker is alive, but it froze or could not reach the database"
    job.detail = f"{cause} (after {job.attempt} attempts)"
    if job.kind == JobKind.REPORT:
        lifecycle.end(session, job, StudyState.FAILED, reason=job.reason, detail=job.detail)
