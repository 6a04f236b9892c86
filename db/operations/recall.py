"""Find every version of a report, and every answer, that used a reference case, a model, a prompt or a specialist."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import exists, func, select
from sqlalchemy.orm import aliased

from db.models import Answer, AnswerEvidence, Evidence, Inquiry, Report, SpecialistDraft, Study
from db.studies.visibility import visible

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Collection, Iterator

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session


class Used(NamedTuple):
    """Case, model, prompt and name of a specialist model of reports and answers; None for any."""

    case_id: uuid.UUID | None = None
    model_digest: str | None = None
    prompt_version: str | None = None
    specialist: str | None = None


class UsedReport(NamedTuple):
    """A version of a report, without its text."""

    id: uuid.UUID
    study_id: uuid.UUID
    version: int
    is_current: bool
    created_at: dt.datetime
    model_digest: str
    prompt_version: str


class UsedAnswer(NamedTuple):
    """An answer to a question or a choice, without its text; *id* is that of the inquiry."""

    id: uuid.UUID
    study_id: uuid.UUID
    kind: str
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
    query = query.join(Study, Study.id == Report.study_id).where(*visible(ae_titles), *_of_model(used, Report))
    if used.case_id is not None:
        query = query.where(exists().where(Evidence.report_id == Report.id, Evidence.case_id == used.case_id))
    if used.specialist is not None:
        drafts = exists().where(SpecialistDraft.report_id == Report.id, SpecialistDraft.name == used.specialist)
        query = query.where(drafts)
    if after is not None:
        query = query.where(Report.id < after)
    return [UsedReport(*row) for row in session.execute(query.limit(limit))]


def answers(
    session: Session, used: Used, ae_titles: Collection[str] | None, *, limit: int, after: uuid.UUID | None = None
) -> list[UsedAnswer]:
    """Return the answers about visible studies that used all of *used*, the newest first, behind the answer *after*."""
    columns = Answer.job_id, Inquiry.study_id, Inquiry.kind, Answer.created_at
    query = select(*columns, Answer.model_digest, Answer.prompt_version).order_by(Answer.job_id.desc())
    query = query.join(Inquiry, Inquiry.job_id == Answer.job_id).join(Study, Study.id == Inquiry.study_id)
    query = query.where(*visible(ae_titles), *_of_model(used, Answer))
    if used.case_id is not None:
        evidence = AnswerEvidence
        query = query.where(exists().where(evidence.job_id == Answer.job_id, evidence.case_id == used.case_id))
    if used.specialist is not None:
        query = query.where(Answer.predictions.contains([{"name": used.specialist}]))
    if after is not None:
        query = query.where(Answer.job_id < after)
    return [UsedAnswer(*row) for row in session.execute(query.limit(limit))]


def _of_model(used: Used, table: type[Report | Answer]) -> Iterator[ColumnElement[bool]]:
    if used.model_digest is not None:
        yield table.model_digest == used.model_digest
    if used.prompt_version is not None:
        yield table.prompt_version == used.prompt_version
