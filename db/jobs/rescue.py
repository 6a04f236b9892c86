"""Rescue: jobs whose lease has expired are queued again, or fail."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select

from db.errors import Reason
from db.models import Job, Process, Study
from db.models.operations import ALIVE_SECONDS
from db.session import transaction
from db.states import JobKind, JobState, StudyState
from db.studies import lifecycle

if TYPE_CHECKING:
    import uuid

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import Session

#: Jobs rescued in one round of the dispatcher.
BATCH = 100
EXPIRED = Job.state == JobState.RUNNING, Job.lease_until < func.clock_timestamp()


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
