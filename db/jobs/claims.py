"""Claim, heartbeat, finish, fail, rescue: the protocol by which a report is written once.

A worker owns a job while its fence is the row's fence and its lease has not run out on the *database's* clock. Every
write of a worker names its fence; zero rows updated means that another worker, an operator or late images took the job
away, and the writer is a zombie (StaleFence). Redis and Celery may lose or repeat messages: it does not matter here.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text, update

from db.errors import NotPossible, Reason, StaleFence
from db.models import Job
from db.models.studies import ENDED_WITHOUT_REPORT
from db.reports import versions
from db.states import JobState, StudyState
from db.studies import lifecycle
from db.studies.priority import urgent_at

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session

    from db.models import Study
    from db.reports.versions import Draft

#: Most jobs rescued in one transaction.
BATCH = 100
#: Retries are spread by up to this fraction, so that jobs that failed together do not come back together.
JITTER = 0.25
#: Longest pause before a retry, in seconds: past ten minutes an operator should look.
LONGEST_PAUSE_SECONDS = 600
#: A job nobody works on any more and nobody was told of yet.
RETURNED: dict[str, Any] = {"state": JobState.QUEUED, "lease_until": None, "owner": None, "sent_at": None}


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job, until the lease runs out or the fence moves on."""

    job_id: uuid.UUID
    study_id: uuid.UUID
    revision: int
    fence: int
    attempt: int


#: One statement on the database's clock. Claimers step over each other's rows instead of waiting.
CLAIM = text("""
    UPDATE jobs
    SET state = 'running', fence = fence + 1, attempt = attempt + 1, owner = :owner, claimed_at = clock_timestamp(),
        lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE id = (
        SELECT id FROM jobs
        WHERE state = 'queued' AND available_at <= clock_timestamp()
            AND (reason IS DISTINCT FROM 'lease_expired' OR :suspects AND NOT EXISTS (
                SELECT FROM jobs AS other
                WHERE other.state = 'running' AND other.owner = :owner AND other.reason = 'lease_expired'))
        ORDER BY urgent_at
        LIMIT 1
        FOR UPDATE SKIP LOCKED)
    RETURNING id, study_id, revision, fence, attempt
""")


def claim_next(session: Session, *, owner: str, lease_seconds: float, suspects: bool = True) -> Claim | None:
    """Take the most urgent waiting job; None where none waits.

    A Celery message says only that there is work. Which job is the most urgent is decided here and now, so a STAT study
    overtakes whatever Redis holds in front of it. The attempt is counted at the claim and not at the end, so that a
    study that kills its worker is counted too. An *owner* works on one suspect at a time, so that a study that kills
    its worker does not use up the tries of those that died beside it; its claims must not overlap, except those that
    leave *suspects* alone.
    """
    found = session.execute(CLAIM, {"owner": owner, "lease_seconds": lease_seconds, "suspects": suspects})
    row = found.one_or_none()
    return None if row is None else Claim(*row)


def heartbeat(session: Session, claim: Claim, *, lease_seconds: float) -> None:
    """Extend the lease because the work has moved on; raises StaleFence where the job was taken away."""
    _update(session, claim, lease_until=func.clock_timestamp() + dt.timedelta(seconds=lease_seconds))


#: First the study, then its job, as everybody does (studies.lock). Whoever waited for the lock sees what has changed.
FINISH = text("""
    WITH study AS (
        SELECT id FROM studies WHERE id = :study_id FOR UPDATE
    ), job AS (
        UPDATE jobs SET state = 'finished', lease_until = NULL, finished_at = clock_timestamp()
        FROM study
        WHERE jobs.id = :job_id AND jobs.study_id = study.id AND jobs.fence = :fence AND jobs.state = 'running'
        RETURNING jobs.study_id, jobs.revision
    )
    UPDATE studies SET state = 'reported', reason = NULL, detail = NULL
    FROM job
    WHERE studies.id = job.study_id AND studies.revision = job.revision AND studies.state = 'settled'
    RETURNING studies.id
""")


def finish(session: Session, claim: Claim, draft: Draft) -> None:
    """End the job with its report, whose version is the study's next one; raises StaleFence if it was taken away."""
    names = {"study_id": claim.study_id, "job_id": claim.job_id, "fence": claim.fence}
    if session.execute(FINISH, names).one_or_none() is None:
        raise _stale(claim)
    versions.insert(session, claim, draft)


def not_reportable(session: Session, claim: Claim, reason: Reason, detail: str) -> None:
    """End the job because its images can never make a report; raises StaleFence."""
    _end(session, claim, StudyState.NOT_REPORTABLE, reason, detail)


def fail(session: Session, claim: Claim, reason: Reason, detail: str) -> None:
    """End the job because another try would fail the same way; raises StaleFence."""
    _end(session, claim, StudyState.FAILED, reason, detail)


def give_back(session: Session, claim: Claim) -> None:
    """Return the job to the queue at once, because its worker was told to stop: not a try, and no fault of the job."""
    _update(session, claim, **RETURNED, attempt=Job.attempt - 1)


def retry_later(
    session: Session,
    claim: Claim,
    reason: Reason,
    detail: str,
    *,
    pause_seconds: float,
    max_attempts: int,
    frames: list[str] | None = None,
) -> None:
    """Give the job back for another try after a pause that doubles, or fail it when its tries are used up.

    *frames* say where an unexpected error came from.
    """
    if claim.attempt >= max_attempts:
        _end(session, claim, StudyState.FAILED, reason, f"{detail} (after {claim.attempt} attempts)", frames=frames)
        return
    pause = min(pause_seconds * 2 ** (claim.attempt - 1), LONGEST_PAUSE_SECONDS)
    # Not a secret: it only spreads the load.
    spread = pause * (1 + random.uniform(-JITTER, JITTER))  # noqa: S311
    _update(
        session,
        claim,
        **RETURNED,
        available_at=func.clock_timestamp() + dt.timedelta(seconds=spread),
        reason=reason,
        detail=detail,
        frames=frames,
    )


def retry(session: Session, study: Study) -> None:
    """Queue a failed, cancelled or not reportable study's job again, with all its tries; by an operator.

    *study* is locked. Raises NotPossible where the study has no such job.
    """
    job = _latest(session, study)
    if job is None and study.state == StudyState.NOT_REPORTABLE:
        raise NotPossible("the study holds no image that could be reported")
    if job is None or study.state not in ENDED_WITHOUT_REPORT:
        raise NotPossible(
            f"the study is {study.state}: only one whose report failed, was cancelled or was found not reportable"
            " can be tried again"
        )
    job.state, job.attempt, job.owner, job.sent_at, job.finished_at = JobState.QUEUED, 0, None, None, None
    job.available_at = job.queued_at = func.clock_timestamp()
    job.urgent_at = urgent_at(job.priority)
    job.reason, job.detail = Reason.OPERATOR, "tried again by an operator"
    study.state, study.reason, study.detail = StudyState.SETTLED, None, None


def cancel(session: Session, study: Study) -> None:
    """End a waiting or running job without a report; by an operator. *study* is locked.

    A worker that is at it finds out at its next heartbeat. Raises NotPossible where no job is open.
    """
    job = _latest(session, study)
    if job is None or study.state != StudyState.SETTLED:
        raise NotPossible(f"the study is {study.state}: there is no open job to cancel")
    job.state, job.lease_until, job.finished_at = JobState.CANCELLED, None, func.clock_timestamp()
    job.reason, job.detail = Reason.OPERATOR, "cancelled by an operator"
    study.state, study.reason, study.detail = StudyState.CANCELLED, job.reason, job.detail


def _latest(session: Session, study: Study) -> Job | None:
    return session.scalars(
        select(Job).where(Job.study_id == study.id, Job.revision == study.revision).with_for_update()
    ).one_or_none()


def _end(session: Session, claim: Claim, state: StudyState, reason: Reason, detail: str, **more: Any) -> None:
    lifecycle.lock(session, claim.study_id)
    ended = {"state": state, "lease_until": None, "finished_at": func.clock_timestamp(), **more}
    _update(session, claim, **ended, reason=reason, detail=detail)
    lifecycle.end(session, claim, state, reason=reason, detail=detail)


def _update(session: Session, claim: Claim, **values: Any) -> None:
    updated = session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.fence == claim.fence, Job.state == JobState.RUNNING)
        .values(**values)
        .returning(Job.id)
    ).one_or_none()
    if updated is None:
        raise _stale(claim)


def _stale(claim: Claim) -> StaleFence:
    return StaleFence(f"job {claim.job_id} is no longer ours under fence {claim.fence}")


def rescue(session: Session, *, max_attempts: int) -> int:
    """Queue again what a dead or hung worker held, or fail it when its tries are used up; returns how many."""
    expired = Job.state == JobState.RUNNING, Job.lease_until < func.clock_timestamp()
    found = session.execute(select(Job.id, Job.study_id).where(*expired).order_by(Job.lease_until).limit(BATCH)).all()
    rescued = 0
    for job_id, study_id in found:
        lifecycle.lock(session, study_id)
        # Looked at again under the lock: its owner may have finished, or another dispatcher was faster.
        job = session.scalars(select(Job).where(Job.id == job_id, *expired).with_for_update()).one_or_none()
        if job is not None:
            _give_up_or_requeue(session, job, max_attempts)
            rescued += 1
    return rescued


def _give_up_or_requeue(session: Session, job: Job, max_attempts: int) -> None:
    job.lease_until = None
    if job.attempt < max_attempts:
        job.state, job.owner, job.sent_at = JobState.QUEUED, None, None
        job.reason, job.detail = Reason.LEASE_EXPIRED, "its worker died or made no progress"
        return
    job.state, job.finished_at, job.reason = JobState.FAILED, func.clock_timestamp(), Reason.WORKER_LOST
    job.detail = f"its worker died or made no progress in each of {job.attempt} attempts"
    lifecycle.end(session, job, StudyState.FAILED, reason=job.reason, detail=job.detail)
