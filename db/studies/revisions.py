"""Begin a new revision of a study, which supersedes an open job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists, func, select, update

from db.errors import Reason
from db.models import Job
from db.states import OPEN_JOBS, JobKind, JobState, StudyState

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session

    from db.models import Study


def reopen(session: Session, study: Study) -> None:
    """Begin a new revision of a locked study because of a late image; nothing if it has begun.

    A held study stays held, and a refused identity stays refused: a person decides.
    """
    if study.state == StudyState.HELD:
        renew(session, study)
    elif study.state != StudyState.RECEIVING and study.reason != Reason.IDENTITY_REFUSED:
        supersede(session, study.id, Reason.LATE_IMAGES, "images arrived after the study was considered complete")
        study.state = StudyState.RECEIVING
        study.reason = study.detail = None
        _begin(study)


def renew(session: Session, study: Study) -> None:
    """Begin a new revision of a locked study if the current one has had a report job, which has ended."""
    report = Job.study_id == study.id, Job.revision == study.revision, Job.kind == JobKind.REPORT
    if session.scalar(select(exists().where(*report))):
        _begin(study)


def supersede(session: Session, study_id: uuid.UUID, reason: Reason, detail: str, *, inquiries: bool = False) -> None:
    """End the open report job of a locked study without a report; with *inquiries*, their jobs too."""
    kinds = tuple(JobKind) if inquiries else (JobKind.REPORT,)
    session.execute(
        update(Job)
        .where(Job.study_id == study_id, Job.state.in_(OPEN_JOBS), Job.kind.in_(kinds))
        .values(
            state=JobState.SUPERSEDED,
            reason=reason,
            detail=detail,
            lease_until=None,
            finished_at=func.clock_timestamp(),
        )
    )


def _begin(study: Study) -> None:
    study.revision += 1
    study.revision_started_at = func.clock_timestamp()
    study.settled_at = study.settle_reason = None
