"""Routes of reports: versions, their difference, their images, and the recall of all that used a case or model."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from api.access.authenticate import Images, Reports
from api.errors import Problem
from api.v1 import reading
from api.v1.acts import ReportDiff, ReportPage, ReportVersion, UsedReport
from api.v1.requests.conditional import etag, matches
from api.v1.requests.recalls import Recall, recalled
from api.v1.schemas import Report
from db.operations import recall
from db.reports import diff, versions

#: A versioned image never changes; one hour limits how long a reading-room machine keeps it.
IMAGE_CACHE = "private, max-age=3600, immutable"
#: Column types of the database: smallint and integer.
MAX_ORDINAL = 2**15 - 1
MAX_VERSION = 2**31 - 1

router = APIRouter(prefix="/v1", tags=["reports"])
Version = Annotated[int | None, Query(ge=1, le=MAX_VERSION, description="Version; by default the current one.")]
_missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
_not_modified: dict[int | str, dict[str, Any]] = {304: {"description": "Not modified."}}


@router.get(
    "/studies/{study_id}/report",
    response_class=Response,
    responses={200: {"model": Report}, **_missing, **_not_modified},
)
def report(request: Request, caller: Reports, study_id: uuid.UUID, version: Version = None) -> Response:
    """Return a version of the study's preliminary report; if it has no report, a 404 states the reason."""
    found = reading.visible_report(caller, study_id, request.app.state.settings, version)
    body = found.model_dump_json().encode()
    return Response(body, media_type="application/json", headers={"ETag": etag(body)})


@router.get("/studies/{study_id}/report/versions", responses=_missing)
def report_versions(caller: Reports, study_id: uuid.UUID) -> list[ReportVersion]:
    """Return the versions of the study's report, the newest first; they never change."""
    reading.study(caller, study_id)
    return [ReportVersion.model_validate(row) for row in versions.all_of(caller.session, study_id)]


@router.get("/studies/{study_id}/report/diff", responses=_missing)
def report_diff(
    request: Request,
    caller: Reports,
    study_id: uuid.UUID,
    earlier: Annotated[int, Query(ge=1, le=MAX_VERSION, description="Version.")],
    later: Version = None,
) -> ReportDiff:
    """Return the words that differ between two versions of the study's report."""
    line = reading.study(caller, study_id)
    rows = versions.version(caller.session, study_id, earlier), versions.version(caller.session, study_id, later)
    if rows[0] is None or rows[1] is None:
        raise reading.no_version()
    reading.check_seal(caller, line, request.app.state.settings)
    return ReportDiff.model_validate(diff.between(*rows))  # type: ignore[arg-type]


_png: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}},
    500: {"model": Problem, "description": "The stored image is missing or damaged."},
}


@router.get(
    "/studies/{study_id}/report/images/{ordinal}", response_class=Response, responses=_missing | _png | _not_modified
)
@router.get(
    "/studies/{study_id}/report/pictures/{ordinal}",
    response_class=Response,
    responses=_missing | _png | _not_modified,
    deprecated=True,
    description="Old path of the image.",
)
def image(
    request: Request,
    caller: Images,
    study_id: uuid.UUID,
    ordinal: Annotated[int, Path(ge=1, le=MAX_ORDINAL, description="From 1, in the model's order.")],
    version: Version = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return an image (PNG) exactly as given to the model; with *version* it never changes and may be cached."""
    found = reading.image(caller, study_id, version, ordinal)
    tag = f'"{found.sha256}"'
    # Without a version the next report's image will have this address: revalidate each time.
    caching = IMAGE_CACHE if version else "private, no-cache"
    # After a logout the cached images must not be used.
    headers = {"ETag": tag, "Cache-Control": caching, "Vary": "Authorization, Cookie"}
    if matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    # No transaction is open while a file is read.
    caller.session.commit()
    return Response(reading.png(request.app.state.settings, found), media_type="image/png", headers=headers)


@router.get("/reports")
def used_reports(caller: Reports, asked: Annotated[Recall, Depends(recalled)]) -> ReportPage:
    """Recall: return every version of a report that used a case, a model, a prompt or a draft, the newest first."""
    rows, following = asked.page(caller, "reports", recall.reports)
    return ReportPage(reports=[UsedReport.model_validate(row) for row in rows], next=following)
