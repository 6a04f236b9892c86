"""Settling: a study that is quiet, or has received images for too long, is considered complete and gets its job.

Late images make a new revision. Each revision must be quiet for longer than the one before, so that a slow sender does
not get a report for every image; after a number of revisions an operator decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import case, exists, func, or_, select

from db.errors import Reason
from db.models import Instance, Job, Study
from db.states import JobState, StudyState
from db.studies.priority import effective_queued_at

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

    from db import settings

#: Studies settled in one transaction: a backlog after an outage must not become one long transaction.
BATCH = 50
#: Limit of the factor by which the quiet time grows, one more with each revision.
MAX_QUIET_FACTOR = 10


def settle_due(session: Session, limits: settings.Study, open_associations: Collection[str] = ()) -> list[uuid.UUID]:
    """Settle every study that is quiet or has received images for too long; return the ids of the new jobs.

    Quiet: no object for `settle_seconds` (or the value of `settle_rules` for AE title or modality) times its revision,
    and no open association sends it. Too long: its revision began `settle_cap_seconds` ago.
    A revision beyond `max_revisions` is cancelled until an operator retries it.
    """
    growing = f"still receiving images after {limits.settle_cap_seconds:g} s"
    jobs = [
        _settle_or_cancel(session, study, growing if capped else f"quiet for {quiet:g} s", limits.max_revisions)
        for study, quiet, capped in session.execute(_due(limits, open_associations)).all()
    ]
    return [job for job in jobs if job is not None]


def _due(limits: settings.Study, open_associations: Collection[str]) -> Select[Study, float, bool]:
    quiet = _quiet_seconds(limits) * func.least(Study.revision, MAX_QUIET_FACTOR)
    age = func.extract("epoch", func.clock_timestamp() - Study.last_received_at)
    capped = func.extract("epoch", func.clock_timestamp() - Study.revision_started_at) >= limits.settle_cap_seconds
    carried = exists().where(Instance.study_id == Study.id, Instance.association_id.in_(list(open_associations)))
    return (
        select(Study, quiet.label("quiet"), capped.label("capped"))
        .where(Study.state == StudyState.RECEIVING, or_((age >= quiet) & ~carried, capped))
        .order_by(Study.priority.desc(), Study.last_received_at)
        .limit(BATCH)
        # SKIP LOCKED: several dispatchers share the work.
        .with_for_update(skip_locked=True)
    )


def _settle_or_cancel(session: Session, study: Study, why: str, max_revisions: int) -> uuid.UUID | None:
    job_id = settle(session, study, why)
    if job_id is None or study.revision <= max_revisions:
        return job_id
    job = session.get_one(Job, job_id)
    job.state, job.finished_at, job.reason = JobState.CANCELLED, func.clock_timestamp(), Reason.TOO_MANY_REVISIONS
    job.detail = f"late images arrived {study.revision - 1} times: `prelim retry` writes a report about all images"
    study.state, study.reason, study.detail = StudyState.CANCELLED, job.reason, job.detail
    return None


def _quiet_seconds(limits: settings.Study) -> ColumnElement[float]:
    if not limits.settle_rules:
        return func.coalesce(limits.settle_seconds)
    by_ae_title = [(Study.calling_ae_title == name, seconds) for name, seconds in limits.settle_rules.items()]
    by_modality = [(Study.modality == name, seconds) for name, seconds in limits.settle_rules.items()]
    return case(*by_ae_title, *by_modality, else_=limits.settle_seconds)


def _announced(session: Session, study: Study) -> str:
    """Return the announced number of objects, if it differs from the received number."""
    received = session.scalar(select(func.count()).select_from(Instance).where(Instance.study_id == study.id))
    if study.announced is None or study.announced == received:
        return ""
    return f" ({received} of {study.announced} objects announced)"


def settle(session: Session, study: Study, why: str) -> uuid.UUID | None:
    """Settle a locked study that is receiving; return the id of its job, None if it has no image."""
    images = session.scalar(
        select(func.count()).select_from(Instance).where(Instance.study_id == study.id, Instance.reportable)
    )
    study.settled_at = func.clock_timestamp()
    study.settle_reason = f"{why}, with {images} image{'' if images == 1 else 's'}{_announced(session, study)}"
    if not images:
        study.state, study.reason = StudyState.NOT_REPORTABLE, Reason.NO_IMAGES
        study.detail = "the study contains no object that can be reported"
        return None
    study.state = StudyState.SETTLED
    urgent_at = effective_queued_at(study.priority)
    job = Job(study_id=study.id, revision=study.revision, priority=study.priority, urgent_at=urgent_at)
    session.add(job)
    session.flush()
    return job.id
