"""What both the JSON and the pages read; raises NotFound where there is nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from api.errors import NotFound
from api.v1.schemas import Content, Evidence, Picture, Report, Study, StudyWithContent
from db.operations import overview
from db.reports import versions

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session

    from db.models import ReportImage


def study(session: Session, study_id: uuid.UUID) -> overview.StudyLine:
    """The study as it stands."""
    line = overview.study(session, study_id)
    if line is None:
        raise NotFound("study not found", "take the id from the list of studies")
    return line


def study_with_content(session: Session, study_id: uuid.UUID) -> StudyWithContent:
    """The study as it stands, and how much of it has arrived."""
    plain = Study.model_validate(study(session, study_id))
    content = Content.model_validate(overview.content(session, study_id))
    return StudyWithContent(**dict(plain), content=content)


def report(session: Session, line: overview.StudyLine) -> Report | None:
    """The study's current report with what it rests on, if there is one."""
    row = versions.current(session, line.id)
    if row is None:
        return None
    same = {name: getattr(row, name) for name in Report.model_fields if name in row.__table__.columns}
    pictures = [
        Picture.model_validate(asdict(p) | {"url": picture_url(line.id, row.version, p.ordinal)})
        for p in overview.images(session, row.id)
    ]
    evidence = [Evidence.model_validate(case) for case in overview.evidence(session, row.id)]
    same["remarks"] = row.limitations
    return Report(**same, outdated=row.revision < line.revision, pictures=pictures, evidence=evidence)


def picture_url(study_id: uuid.UUID, version: int, ordinal: int) -> str:
    """Where the PNG is; with its version, so that a later report's picture is never taken for it."""
    return f"/v1/studies/{study_id}/report/pictures/{ordinal}?version={version}"


def picture(session: Session, study_id: uuid.UUID, version: int | None, ordinal: int) -> ReportImage:
    """One picture of a version of the study's report, the current one if none is named."""
    line = study(session, study_id)
    wanted = version or (line.report.version if line.report else None)
    found = None if wanted is None else overview.image(session, study_id, wanted, ordinal)
    if found is None:
        raise NotFound("image not found", "the report lists its images")
    return found
