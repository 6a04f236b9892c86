"""Read a version of a report with all that is stored with it, in one statement.

A report has rows in nine tables: one query for each of them, through the ORM, costs many times the CPU of this
statement, which a connection plans once.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, Uuid, bindparam, cast, func, literal_column, or_, select, true

from db.models import (
    Citation,
    Evidence,
    Finding,
    Omission,
    ReferenceCase,
    Report,
    ReportCheck,
    ReportImage,
    Sentence,
    SpecialistDraft,
    Study,
    StudyHold,
)
from db.reports import certificates, grounds
from db.reports.versions import EVIDENCE, CheckResult, EvidenceLine, QuotedDraft, by_importance
from db.session import compiled
from db.states import CheckState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Row, Select
    from sqlalchemy.orm import Session

    from db.reports.grounds import Grounds

#: Of an image, all but its pixels and their place.
IMAGE = [
    column
    for column in ReportImage.__table__.columns
    if column.name not in {"report_id", "png", "file_path", "file_bytes"}
]
HOLD = (StudyHold.reason, StudyHold.held_by, StudyHold.held_at, StudyHold.released_by, StudyHold.released_at)


@dataclass(frozen=True, slots=True)
class CompleteReport:
    """A version of a report with all that is stored with it."""

    #: Columns of the report, as attributes.
    columns: Row[Any]
    #: State and revision of the study.
    study_state: str
    study_revision: int
    #: Reason for the examination and requested procedure of the study; None: not read.
    indication: str | None
    requested_procedure: str | None
    #: Newest version of its report.
    newest: int
    evidence: list[EvidenceLine]
    #: Draft of a specialist model that it was written with.
    specialist_draft: QuotedDraft | None
    #: Columns of each image but its pixels, in the model's order.
    images: list[Mapping[str, Any]]
    checks: list[CheckResult]
    #: None for a report that was stored without.
    grounds: Grounds | None
    #: Columns of the open hold of the study.
    hold: Mapping[str, Any] | None
    #: Reason of the suspension of the report's certificate; None without one.
    suspended_because: str | None


class Query:
    """Query of versions of reports on studies that meet *conditions*."""

    def __init__(self, *conditions: ColumnElement[bool]) -> None:
        self._execute = compiled(_query(*conditions))

    def read(self, session: Session, study_id: uuid.UUID, version: int | None = None) -> CompleteReport | None:
        """Return a version of a study's report, by default the newest; None if it does not exist."""
        row = self._execute(session, wanted_study=study_id, wanted_version=version).one_or_none()
        return None if row is None else _complete(row)


def _query(*conditions: ColumnElement[bool]) -> Select[Any]:
    wanted = cast(bindparam("wanted_version", None), Integer)
    versions = (
        select(Report).where(Report.study_id == Study.id).order_by(Report.version.desc()).limit(1).correlate(Study)
    )
    report = versions.where(or_(wanted.is_(None), Report.version == wanted)).lateral("report")
    newest = versions.with_only_columns(Report.version).scalar_subquery()
    certificate = func.jsonb_extract_path_text(report.c.provenance, "calibration", "certificate", "id")

    def rows(columns: Sequence[Any], order: Sequence[Any], table: Any) -> Any:
        return _json_rows(select(*columns).where(table.report_id == report.c.id).order_by(*order).correlate(report))

    cases = select(*EVIDENCE).outerjoin(ReferenceCase, ReferenceCase.id == Evidence.case_id)
    evidence = cases.where(Evidence.report_id == report.c.id).order_by(Evidence.rank).correlate(report)
    held = select(*HOLD).where(StudyHold.study_id == Study.id, StudyHold.released_at.is_(None)).correlate(Study)
    return (
        select(
            *report.c,
            Study.state.label("study_state"),
            Study.revision.label("study_revision"),
            Study.indication,
            Study.requested_procedure,
            newest.label("newest"),
            certificates.suspension(certificate).scalar_subquery().label("suspended_because"),
            _json_rows(held).label("holds"),
            _json_rows(evidence).label("evidence"),
            rows(_columns(SpecialistDraft), (), SpecialistDraft).label("drafts"),
            rows(IMAGE, [ReportImage.ordinal], ReportImage).label("images"),
            rows((ReportCheck.name, ReportCheck.state, ReportCheck.sentences), (), ReportCheck).label("checks"),
            rows(_columns(Sentence), [Sentence.ordinal], Sentence).label("sentences"),
            rows(_columns(Finding), [Finding.ordinal], Finding).label("stated"),
            rows(_columns(Citation), [Citation.finding, Citation.rank, Citation.stance], Citation).label("cited"),
            rows(_columns(Omission), [Omission.ordinal], Omission).label("omitted"),
        )
        .select_from(Study)
        .join(report, true())
        .where(Study.id == cast(bindparam("wanted_study", None), Uuid), *conditions)
    )


def _columns(table: Any) -> list[Any]:
    return [column for column in table.__table__.columns if column.name != "report_id"]


def _json_rows(query: Select[*tuple[Any, ...]]) -> Any:
    """Return the rows of a query as one JSON array of objects, in their order."""
    array = func.coalesce(func.json_agg(literal_column("found")), literal_column("'[]'"))
    return select(array).select_from(query.subquery("found")).scalar_subquery()


def _complete(row: Row[Any]) -> CompleteReport:
    stored = None
    if row.calibration is not None:
        stored = grounds.from_rows(row.calibration, row.sentences, row.stated, row.cited, row.omitted)
    return CompleteReport(
        columns=row,
        study_state=row.study_state,
        study_revision=row.study_revision,
        indication=row.indication,
        requested_procedure=row.requested_procedure,
        newest=row.newest,
        evidence=[_case(each) for each in row.evidence],
        specialist_draft=QuotedDraft(**row.drafts[0]) if row.drafts else None,
        images=row.images,
        checks=by_importance(
            CheckResult(one["name"], CheckState(one["state"]), one["sentences"]) for one in row.checks
        ),
        grounds=stored,
        hold=row.holds[0] if row.holds else None,
        suspended_because=row.suspended_because,
    )


def _case(row: dict[str, Any]) -> EvidenceLine:
    case_id = row["case_id"]
    return EvidenceLine(**row | {"case_id": None if case_id is None else uuid.UUID(case_id)})
