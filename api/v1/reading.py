"""Read studies and reports for the JSON routes and the pages; raises NotFound."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import structlog

from api.errors import ApiError, ErrorCode, NotFound, Problem
from api.v1 import grounds
from api.v1.acts import Hold
from api.v1.inquiries.draft_body import SpecialistDraft
from api.v1.schemas import (
    CheckResult,
    Content,
    Evidence,
    Image,
    Report,
    Study,
    StudyWithContent,
)
from db.errors import ImageDamaged
from db.models import Report as ReportRow
from db.operations import overview
from db.operations.filters import ATTENTION, Filters, Position, Sort
from db.reports import complete, image_files, list_marks, seals, versions
from db.session import transaction
from db.states import PENDING, DisplayedState, StudyState
from db.studies.identity import conflicts
from db.studies.visibility import visible

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from api.access.authenticate import Caller
    from db.models import ReportImage
    from db.reports.complete import CompleteReport
    from db.settings import Settings

log = structlog.get_logger()

#: Sets of AE titles that callers are restricted to, whose queries are kept.
RESTRICTIONS = 64
#: Columns of a report that the API publishes as they are.
COLUMNS = tuple(name for name in Report.model_fields if name in ReportRow.__table__.columns)


def study(caller: Caller, study_id: uuid.UUID, *, marks: bool = False) -> overview.StudyLine:
    """Return the current state of a study; one that the caller may not see is not found."""
    caller.disclose([study_id])
    line = overview.study(caller.session, study_id, caller.principal.ae_titles, marks=marks)
    if line is None:
        raise NotFound("study not found", "take the id from the list of studies")
    return line


def identities(caller: Caller, study_instance_uid: str) -> list[overview.StudyLine]:
    """Return the studies under a Study Instance UID that the caller may see, by the number of their identity."""
    lines = overview.studies(caller.session, [study_instance_uid], caller.principal.ae_titles)
    caller.disclose(line.id for line in lines)
    return sorted(lines, key=lambda line: line.identity_number)


def page(
    caller: Caller, *, limit: int, filters: Filters, after: Position | None = None, sort: Sort = Sort.ARRIVAL
) -> overview.Page:
    """Return a page of the work list: the studies that the caller may see."""
    seen = replace(filters, ae_titles=caller.principal.ae_titles)
    found = overview.page(caller.session, limit=limit, filters=seen, after=after, sort=sort)
    caller.disclose(line.id for line in found.studies)
    return found


def mark(caller: Caller, lines: Sequence[overview.StudyLine], settings: Settings) -> None:
    """Set why a person must look at studies, and who has their pages open, to what *caller* may know.

    While drafts are sealed the marks of a report are not named: they would disclose its text.
    """
    shown, reader = settings.api.drafts == "shown", str(caller.principal)
    for line in lines:
        if line.attention is None:
            raise ValueError("the marks of the study were not read")
        own = [str(line.state)] if str(line.state) in ATTENTION else []
        named = line.attention if shown else ["report"] if line.attention else []
        line.attention, line.readers = [*own, *named], list_marks.readers(line.readers, reader)


def marked_study(caller: Caller, study_id: uuid.UUID, settings: Settings) -> overview.StudyLine:
    """Return the current state of a study with its marks; raises NotFound."""
    line = study(caller, study_id, marks=True)
    mark(caller, [line], settings)
    return line


def with_content(session: Session, line: overview.StudyLine) -> StudyWithContent:
    """Return the current state of a study and the numbers of its objects."""
    plain = Study.model_validate(line)
    content = Content.model_validate(overview.content(session, line.id))
    return StudyWithContent(**dict(plain), content=content)


def is_sealed(caller: Caller, line: overview.StudyLine, settings: Settings) -> bool:
    """Return whether the caller may not yet have the text of drafts and answers of a study."""
    version = line.report.version if line.report else 0
    return seals.is_sealed(caller.session, line.id, version, str(caller.principal), settings.api.drafts)


#: Remedies of a seal by the setting `drafts`.
_OPENED_BY = {
    "after_images": "GET images or frames of the study, then POST /v1/studies/{id}/report/open",
    "after_impression": "POST the own impression to /v1/studies/{id}/impression",
}


def check_seal(caller: Caller, line: overview.StudyLine, settings: Settings) -> None:
    """Raise Forbidden if drafts and answers of a study are sealed for the caller."""
    if is_sealed(caller, line, settings):
        problem = Problem(
            error=ErrorCode.SEALED,
            message="the draft is sealed for this reader",
            hint=_OPENED_BY[settings.api.drafts],
        )
        raise ApiError(403, problem)


def no_version() -> NotFound:
    """Return the error of a report version that does not exist."""
    return NotFound("version not found", "take it from the versions of the report")


def report(session: Session, line: overview.StudyLine, settings: Settings, version: int | None = None) -> Report | None:
    """Return a version of the study's report with its evidence and images, by default the current one."""
    found = _reports(None).read(session, line.id, version)
    return None if found is None else _report(found, settings)


def visible_report(caller: Caller, study_id: uuid.UUID, settings: Settings, version: int | None = None) -> Report:
    """Return a version of a study's report, in one query; raises ApiError 404 if the caller may not see it."""
    caller.disclose([study_id])
    found = _reports(caller.principal.ae_titles).read(caller.session, study_id, version)
    if found is not None:
        if settings.api.drafts != "shown":
            check_seal(caller, study(caller, study_id), settings)
        return _report(found, settings)
    line = study(caller, study_id)
    raise no_report(line) if version is None else no_version()


@lru_cache(maxsize=RESTRICTIONS)
def _reports(ae_titles: frozenset[str] | None) -> complete.Query:
    return complete.Query(*visible(ae_titles))


_HINTS = dict.fromkeys(PENDING, "repeat the request in a few seconds") | {
    DisplayedState.HELD: "a person must decide: see /v1/studies/{id}/identity"
}


def no_report(line: overview.StudyLine) -> ApiError:
    """Return the error of a study without a report, with its state and reason."""
    pending = line.state in PENDING
    problem = {
        "error": ErrorCode.NO_REPORT_YET if pending else ErrorCode.NO_REPORT,
        "message": f"the study is {line.state.replace('_', ' ')}",
        "hint": _HINTS.get(line.state, "a report is written only if more images arrive"),
        "state": line.state,
        "reason": line.reason,
        "reason_detail": line.detail,
    }
    return ApiError(404, Problem.model_validate(problem))


def _report(found: CompleteReport, settings: Settings) -> Report:
    row = found.columns
    held = [conflicts.HELD] if found.study_state == StudyState.HELD else []
    limitations = [*held, *versions.erased(found.evidence), *row.limitations]
    of_images, of_evidence = (_parts(row, count) for count in ("images", "evidence"))
    images = [_image(row, image, next(of_images, "")) for image in found.images]
    return Report(
        **{name: getattr(row, name) for name in COLUMNS} | {"limitations": limitations} | grounds.standing(found),
        **grounds.of(found, regions=settings.api.show_regions),
        imaging_request=grounds.imaging_request(found),
        outdated=row.revision < found.study_revision,
        superseded=row.version < found.newest,
        hold=None if found.hold is None else Hold.model_validate(found.hold),
        images=images,
        pictures=images,
        remarks=limitations,
        checks=[CheckResult.model_validate(result) for result in found.checks],
        evidence=[Evidence(**asdict(case), part=next(of_evidence, "")) for case in found.evidence],
        specialist_draft=found.specialist_draft and SpecialistDraft.model_validate(found.specialist_draft),
    )


def _parts(row: Row[Any], counted: Literal["images", "evidence"]) -> Iterator[str]:
    """Yield the name of the part for each image or earlier case of a report; empty for reports without parts."""
    for part in row.provenance.get("parts", []):
        yield from [part["name"]] * part[counted]


def _image(report: Row[Any], row: Mapping[str, Any], part: str) -> Image:
    # With its version, so that the address never leads to an image of a later report.
    url = f"/v1/studies/{report.study_id}/report/images/{row['ordinal']}?version={report.version}"
    return Image(**row, url=url, part=part)


def image(caller: Caller, study_id: uuid.UUID, version: int | None, ordinal: int) -> ReportImage:
    """Return one image of a version of the study's report, by default of the current one."""
    line = study(caller, study_id)
    wanted = version or (line.report.version if line.report else None)
    found = None if wanted is None else versions.image(caller.session, study_id, wanted, ordinal)
    if found is None:
        raise NotFound("image not found", "the report lists its images")
    return found


def png(settings: Settings, row: ReportImage) -> bytes:
    """Return an image as the model received it; raises NotFound if it was deleted, ApiError 500 if it is damaged."""
    folder = settings.operations.data_dir
    try:
        return image_files.read(folder, row)
    except ImageDamaged:
        # Read again: `prelim move-images` or `prelim retain` may have removed the file since.
        with transaction(settings.database()) as session:
            again = session.get(type(row), (row.report_id, row.ordinal))
    if again is None:
        raise NotFound("image not found", "it was deleted by `prelim retain`")
    try:
        return image_files.read(folder, again)
    except ImageDamaged as error:
        log.error(  # noqa: TRY400 - no text of the error but its cause
            "report_image.damaged", file=again.file_path, ordinal=again.ordinal, cause=str(error)
        )
        raise _damaged(error) from error


def _damaged(error: ImageDamaged) -> ApiError:
    hint = "the report was written from this image, which cannot be shown now; ask an operator to run `prelim audit`"
    return ApiError(500, Problem(error=ErrorCode.IMAGE_DAMAGED, message=str(error), hint=hint))
