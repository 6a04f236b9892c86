"""Find every version of a report that used a reference case, a model or a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import exists, func, select
from sqlalchemy.orm import aliased

from db.models import Evidence, Report, Study
from db.studies.visibility import visible

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Collection

    from sqlalchemy.orm import Session


class Used(NamedTuple):
    """Case, model and prompt of reports; None for any."""

    case_id: uuid.UUID | None = None
    model_digest: str | None = None
    prompt_version: str | None = None


class UsedReport(NamedTuple):
    """A version of a report, without its text."""

    report_id: uuid.UUID
    study_id: uuid.UUID
    version: int
    is_current: bool
    created_at: dt.datetime
    model_digest: str
    prompt_version: str


def reports(
    session: Session, used: Used, ae_titles: Collection[str] | None, *, limit: int, after: uuid.UUID | None = None
) -> list[UsedReport]:
    """Return the reports of visible studies that used all of *used*, the newest first, behind the report *after*."""
    other = aliased(Report)
    newest = select(func.max(other.version)).where(other.study_id == Report.study_id).scalar_subquery()
    query = select(
        Report.id,
        Report.study_id,
        Report.version,
        Report.version == newest,
        Report.created_at,
        Report.model_digest,
        Report.prompt_version,
    ).order_by(Report.id.desc())
    query = query.join(Study, Study.id == Report.study_id).where(*visible(ae_titles))
    if used.case_id is not None:
        query = query.where(exists().where(Evidence.report_id == Report.id, Evidence.case_id == used.case_id))
    if used.model_digest is not None:
        query = query.where(Report.model_digest == used.model_digest)
    if used.prompt_version is not None:
        query = query.where(Report.prompt_version == used.prompt_version)
    if after is not None:
        query = query.where(Report.id < after)
    return [UsedReport(*row) for row in session.execute(query.limit(limit))]
