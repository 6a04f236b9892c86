"""Job protocol: claim, extend, finish, fail; db.jobs.rescue has the rest. It writes each result exactly once.

A worker owns a job while its fence and claim token are the row's and its lease has not expired on the *database's*
clock. Every write of a worker names both; zero rows updated means that another worker, an operator or late images took
the job away (StaleFence). The token is random: a promoted standby, or a restored backup, that lacks the last claims
gives the same fence a second time. Lost or repeated Celery messages do not affect it.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text, update

from db.answers import inquiries, stored
from db.errors import NotPossible, Reason, StaleFence
from db.models import Job, Study
from db.models.studies import ENDED_WITHOUT_REPORT
from db.reports import versions
from db.states import OPEN_JOBS, JobKind, JobState, StudyState
from db.studies import lifecycle
from db.studies.priority import effective_queued_at

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from db.answers.answer import Answer, Diagnosis
    from db.reports.versions import Draft

#: Retries are spread by up to this fraction, so that jobs that failed together are not retried together.
JITTER = 0.25
#: Longest pause before a retry, in seconds: ten minutes is longer than most outages.
MAX_PAUSE_SECONDS = 600
#: Pause of a job that waits for a service.
WAIT_SECONDS = 15
#: Values of a job that returns to the queue: without owner, to be announced again.
RETURNED: dict[str, Any] = {"state": JobState.QUEUED, "lease_until": None, "owner": None, "sent_at": None}


@dataclass(frozen=True, slots=True)
class Claim:
    """Right to work on a job until its lease expires or its fence is incremented."""

    job_id: uuid.UUID
    study_id: uuid.UUID
    revision: int
    fence: int
    attempt: int
    token: uuid.UUID
    #: Nothing else may run in its process.
    poison_candidate: bool
    priority: int
    #: db.states.JobKind.
    kind: str


#: One statement on the database's clock. SKIP LOCKED: concurrent claims do not wait for each other.
#: Jobs of an owner count unless an earlier process with its name claimed them.
#: Not durable: a claim undone by a crash of the server is made again; the token rejects the first one's result.
#: Compared as text: PostgreSQL takes `<>` for frequent and a boolean for rare, and after statistics of a short queue
#: it would read and sort all waiting jobs at each claim, for the one that it expects to meet a rare condition.
CLAIM = text("""
    UPDATE jobs
    SET state = 'running', fence = fence + 1, claim_token = gen_random_uuid(), attempt = attempt + 1, owner = :owner,
        claimed_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE set_config('synchronous_commit', 'off', true) = 'off' AND id = (
        SELECT id FROM jobs
        WHERE state = 'queued'
            AND (priority <= 0 OR CASE kind WHEN 'report' THEN NOT :routine_only ELSE :inquiries END)
            AND (CASE WHEN available_at > clock_timestamp() THEN false
                WHEN reason IN ('lease_expired', 'no_progress', 'gpu_lost')
                THEN :poison_candidates AND NOT EXISTS (
                    SELECT FROM jobs AS mine
                    WHERE mine.state = 'running' AND mine.owner = :owner
                        AND mine.claimed_at
                            > coalesce((SELECT started_at FROM processes WHERE name = :owner), '-infinity'))
                ELSE :others AND NOT EXISTS (
                    SELECT FROM jobs AS mine
                    WHERE mine.state = 'running' AND mine.reason IN ('lease_expired', 'no_progress', 'gpu_lost')
                        AND mine.owner = :owner
                        AND mine.claimed_at
                            > coalesce((SELECT started_at FROM processes WHERE name = :owner), '-infinity'))
            END)::text <> 'false'
        ORDER BY urgent_at
        LIMIT 1
        FOR UPDATE SKIP LOCKED)
    RETURNING id, study_id, revision, fence, attempt, claim_token,
        (reason IN ('lease_expired', 'no_progress', 'gpu_lost')) IS TRUE, priority, kind
""")


def claim_next(
    session: Session,
    *,
    owner: str,
    lease_seconds: float,
    poison_candidates: bool = True,
    others: bool = True,
    routine_only: bool = False,
    inquiries: bool = True,
) -> Claim | None:
    """Claim the most urgent waiting job, a poison candidate or another; None if none can be claimed.

    With *routine_only*, reports above routine priority are left; without *inquiries*, inquiries above it.

    The order is decided here and not by Celery's messages, so that a STAT study overtakes the messages before it. The
    attempt is counted at the claim, so that a study that kills its worker is counted, too.
    A job whose lease expired is a poison candidate: it may have killed its worker, or hang it. An *owner* takes it only
    when it runs nothing, and takes nothing beside it, so that it uses up no attempt of another job. While one owner
    claims with *poison_candidates*, it must not make another claim.
    """
    wanted = {"poison_candidates": poison_candidates, "others": others, "routine_only": routine_only}
    names = {"owner": owner, "lease_seconds": lease_seconds, "inquiries": inquiries, **wanted}
    row = session.execute(CLAIM, names).one_or_none()
    return None if row is None else Claim(*row)


def extend_lease(session: Session, claim: Claim, *, lease_seconds: float) -> None:
    """Extend the lease after progress; raises StaleFence if the job was taken away."""
    _update(session, claim, lease_until=func.clock_timestamp() + dt.timedelta(seconds=lease_seconds))


#: The study is locked before its job, as everywhere (lifecycle.lock); the UPDATE sees changes made before the lock.
#: One statement with the report saves a round trip. Its version is the next one although it is read before the lock:
#: the job could not be claimed before the study's earlier one had ended.
FINISH = versions.insert_for("""
    WITH study AS (SELECT id FROM studies WHERE id = :study_id FOR UPDATE), job AS (
        UPDATE jobs SET state = 'finished', lease_until = NULL, finished_at = clock_timestamp()
        FROM study
        WHERE jobs.id = :job_id AND jobs.study_id = study.id AND jobs.state = 'running' AND jobs.kind = 'report'
            AND jobs.fence = :fence AND jobs.claim_token = :token
        RETURNING jobs.id, jobs.study_id, jobs.revision, jobs.fence
    ), ended AS (
        UPDATE studies SET state = 'reported', reason = NULL, detail = NULL, is_marked = :is_marked,
            report_version = report_version + 1 FROM job
        WHERE studies.id = job.study_id AND studies.revision = job.revision AND studies.state = 'settled'
        RETURNING studies.id AS study_id, job.id AS job_id, job.revision, job.fence
    )
""")


def finish(session: Session, claim: Claim, draft: Draft, image_files: Sequence[str] = ()) -> None:
    """End the job with its report, whose version is the study's next one; raises StaleFence if it was taken away.

    *image_files* are the paths of the draft's images if they are in files (db.reports.image_files). Raises
    PermanentFailure if the draft cannot be stored.
    """
    names = {"study_id": claim.study_id, "job_id": claim.job_id, "fence": claim.fence, "token": claim.token}
    if not versions.insert(session, FINISH, names, draft, image_files):
        raise _stale(claim)


def finish_inquiry(session: Session, claim: Claim, result: Answer | Diagnosis) -> None:
    """End the job of an inquiry with its answer; raises StaleFence if it was taken away.

    The study stays as it is. Raises PermanentFailure if the answer cannot be stored.
    """
    _update(session, claim, state=JobState.FINISHED, lease_until=None, finished_at=func.clock_timestamp())
    stored.insert(session, claim.job_id, revision=claim.revision, fence=claim.fence, result=result)


def not_reportable(session: Session, claim: Claim, reason: Reason, detail: str) -> None:
    """End the job because the images of its study can never have this result; raises StaleFence."""
    _end(session, claim, StudyState.NOT_REPORTABLE, reason, detail)


def fail(session: Session, claim: Claim, reason: Reason, detail: str) -> None:
    """End the job because another attempt would fail the same way; raises StaleFence."""
    _end(session, claim, StudyState.FAILED, reason, detail)


def give_back(session: Session, claim: Claim, waits_for: tuple[Reason, str] | None = None) -> None:
    """Return the job without counting the attempt, after a pause if it *waits_for* a service; a candidate stays one."""
    values: dict[str, Any] = {}
    if waits_for is not None:
        values["available_at"] = func.clock_timestamp() + dt.timedelta(seconds=WAIT_SECONDS)
        values |= {"detail": waits_for[1]} | ({} if claim.poison_candidate else {"reason": waits_for[0]})
    _update(session, claim, **RETURNED, **values, attempt=Job.attempt - 1)


def retry_later(
    session: Session,
    claim: Claim,
    reason: Reason,
    detail: str,
    *,
    pause_seconds: float,
    max_attempts: int,
    frames: list[str] | None = None,
) -> JobState:
    """Return the job to the queue after a pause that doubles, or fail it after *max_attempts*; return its state.

    *frames* are the file and line of each frame of an unexpected error. Raises StaleFence.
    """
    if claim.attempt >= max_attempts:
        _end(session, claim, StudyState.FAILED, reason, f"{detail} (after {claim.attempt} attempts)", frames=frames)
        return JobState.FAILED
    pause = min(pause_seconds * 2 ** (claim.attempt - 1), MAX_PAUSE_SECONDS)
    # Not cryptographic: it spreads the load.
    spread = dt.timedelta(seconds=pause * (1 + random.uniform(-JITTER, JITTER)))  # noqa: S311
    failure = {"reason": reason, "detail": detail, "frames": frames}
    _update(session, claim, **RETURNED, **failure, available_at=func.clock_timestamp() + spread)
    return JobState.QUEUED


def retry(session: Session, study: Study) -> None:
    """Queue the job of a failed, cancelled or not reportable study again, with all attempts; *study* is locked.

    Raises NotPossible if the study has no such job.
    """
    job = _latest(session, study)
    if job is None and study.state == StudyState.NOT_REPORTABLE:
        raise NotPossible("the study contains no image that can be reported")
    if study.reason == Reason.IDENTITY_REFUSED:
        raise NotPossible("the objects were set aside: `prelim identity ID keep-apart` takes them back")
    if job is None or study.state not in ENDED_WITHOUT_REPORT:
        raise NotPossible(
            f"the study is {study.state}: only a failed, cancelled or not reportable study can be retried"
        )
    _queue_again(job)
    study.state, study.reason, study.detail = StudyState.SETTLED, None, None


def retry_inquiry(session: Session, job_id: uuid.UUID) -> None:
    """Queue an inquiry that ended without an answer again, with all attempts; raises NotPossible, as `ask` does."""
    inquiries.require_askable(session, inquiries.locked_study(session, job_id))
    job = session.get_one(Job, job_id, with_for_update=True)
    if job.state not in (JobState.FAILED, JobState.CANCELLED, JobState.NOT_REPORTABLE):
        raise NotPossible(f"the inquiry is {job.state}: only one that failed or was cancelled can be retried")
    _queue_again(job)


def _queue_again(job: Job) -> None:
    job.state, job.attempt, job.owner, job.sent_at, job.finished_at = JobState.QUEUED, 0, None, None, None
    job.available_at = job.queued_at = func.clock_timestamp()
    job.urgent_at = effective_queued_at(job.priority)
    job.reason, job.detail = Reason.OPERATOR, "retried by an operator"


def cancel(session: Session, study: Study) -> None:
    """End a queued or running job without a report; *study* is locked.

    Its worker notices at its next lease extension. Raises NotPossible if no job is open.
    """
    job = _latest(session, study)
    if job is None or study.state != StudyState.SETTLED:
        raise NotPossible(f"the study is {study.state}: there is no open job to cancel")
    _cancel(job)
    study.state, study.reason, study.detail = StudyState.CANCELLED, job.reason, job.detail


def cancel_inquiry(session: Session, job_id: uuid.UUID) -> None:
    """End a queued or running inquiry without an answer; raises NotPossible if it has ended."""
    job = session.get_one(Job, job_id, with_for_update=True)
    if job.state not in OPEN_JOBS:
        raise NotPossible(f"the inquiry is {job.state}: there is no open job to cancel")
    _cancel(job)


def _cancel(job: Job) -> None:
    job.state, job.lease_until, job.finished_at = JobState.CANCELLED, None, func.clock_timestamp()
    job.reason, job.detail = Reason.OPERATOR, "cancelled by an operator"


def _latest(session: Session, study: Study) -> Job | None:
    return session.scalars(
        select(Job)
        .where(Job.study_id == study.id, Job.revision == study.revision, Job.kind == JobKind.REPORT)
        .with_for_update()
    ).one_or_none()


def _end(session: Session, claim: Claim, state: StudyState, reason: Reason, detail: str, **more: Any) -> None:
    lifecycle.lock(session, claim.study_id)
    ended = {"state": state, "lease_until": None, "finished_at": func.clock_timestamp(), **more}
    _update(session, claim, **ended, reason=reason, detail=detail)
    if claim.kind == JobKind.REPORT:
        lifecycle.end(session, claim, state, reason=reason, detail=detail)


def _update(session: Session, claim: Claim, **values: Any) -> None:
    updated = session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.fence == claim.fence, Job.claim_token == claim.token)
        .where(Job.state == JobState.RUNNING)
        .values(**values)
        .returning(Job.id)
    ).one_or_none()
    if updated is None:
        raise _stale(claim)


def _stale(claim: Claim) -> StaleFence:
    return StaleFence(f"job {claim.job_id} was taken away: fence {claim.fence} is stale")
