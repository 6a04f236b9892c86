"""Routes of studies, their reports and the reports' images, as JSON and PNG."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from api.access.authenticate import Images, Reports, Worklist
from api.errors import ApiError, ErrorCode, Problem
from api.v1 import cursor, reading
from api.v1.schemas import Report, Study, StudyPage, StudyWithContent
from db.operations import overview
from db.operations.overview import Filters
from db.states import PENDING, DisplayedState

#: Studies on one page.
MAX_PAGE = 100
#: A versioned image never changes; one hour limits how long a reading-room machine keeps it.
IMAGE_CACHE = "private, max-age=3600, immutable"

#: Column types of the database: smallint and integer.
MAX_ORDINAL = 2**15 - 1
MAX_VERSION = 2**31 - 1

router = APIRouter(prefix="/v1", tags=["studies"], responses={401: {"model": Problem}, 403: {"model": Problem}})
_missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}


@router.get("/studies")
def list_studies(
    caller: Worklist,
    state: Annotated[DisplayedState | None, Query(description="Only studies in this state.")] = None,
    after: Annotated[str | None, Query(description="`next` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> StudyPage:
    """Return the work list, newest study first."""
    page = reading.page(caller, limit=limit, filters=Filters(state=state), after=position(after))
    following = None if page.following is None else cursor.encode(page.following)
    return StudyPage(studies=[Study.model_validate(line) for line in page.studies], next=following)


def position(after: str | None) -> overview.Position | None:
    """Return the start of a page; raises ApiError 422 for an invalid cursor."""
    try:
        return None if after is None else cursor.decode(after)
    except ValueError as error:
        hint = "take `after` from the `next` of the previous page, or leave it out"
        raise ApiError(422, Problem(error=ErrorCode.INVALID_REQUEST, message=f"after: {error}", hint=hint)) from error


@router.get("/studies/{study_id}", responses=_missing)
def one_study(caller: Worklist, study_id: uuid.UUID) -> StudyWithContent:
    """Return the current state of one study."""
    return reading.with_content(caller.session, reading.study(caller, study_id))


@router.get("/studies/{study_id}/report", responses=_missing)
def current_report(request: Request, caller: Reports, study_id: uuid.UUID) -> Report:
    """Return the current version of the study's preliminary report; if it has no report, a 404 states the reason."""
    line = reading.study(caller, study_id)
    report = reading.report(caller.session, line, request.app.state.settings)
    if report is None:
        raise _no_report(line)
    return report


_HINTS = dict.fromkeys(PENDING, "repeat the request in a few seconds") | {
    DisplayedState.HELD: "a person must decide: see /v1/studies/{id}/identity"
}


def _no_report(line: overview.StudyLine) -> ApiError:
    pending = line.state in PENDING
    problem = {
        "error": ErrorCode.NO_REPORT_YET if pending else ErrorCode.NO_REPORT,
        "message": f"the study is {line.state.replace('_', ' ')}",
        "hint": _HINTS.get(line.state, "a report is written only if more images arrive"),
        "state": line.state,
        "reason": line.reason,
        "detail": line.detail,
    }
    return ApiError(404, Problem.model_validate(problem))


_png: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}},
    304: {"description": "Not modified."},
    500: {"model": Problem, "description": "The stored image is missing or damaged."},
}


@router.get("/studies/{study_id}/report/images/{ordinal}", response_class=Response, responses=_missing | _png)
@router.get(
    "/studies/{study_id}/report/pictures/{ordinal}",
    response_class=Response,
    responses=_missing | _png,
    deprecated=True,
    description="Old path of the image.",
)
def image(
    request: Request,
    caller: Images,
    study_id: uuid.UUID,
    ordinal: Annotated[int, Path(ge=1, le=MAX_ORDINAL, description="From 1, in the model's order.")],
    version: Annotated[
        int | None, Query(ge=1, le=MAX_VERSION, description="Version of the report; by default the current one.")
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return an image (PNG) exactly as given to the model; with *version* it never changes and may be cached."""
    found = reading.image(caller, study_id, version, ordinal)
    tag = f'"{found.sha256}"'
    # Without a version the next report's image will have this address: revalidate each time.
    caching = IMAGE_CACHE if version else "private, no-cache"
    # After a logout the cached images must not be used.
    headers = {"ETag": tag, "Cache-Control": caching, "Vary": "Authorization, Cookie"}
    if _matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    # No transaction is open while a file is read.
    caller.session.commit()
    return Response(reading.png(request.app.state.settings, found), media_type="image/png", headers=headers)


def _matches(if_none_match: str | None, tag: str) -> bool:
    """Return whether If-None-Match lists *tag* (RFC 9110 section 13.1.2, weak comparison)."""
    held = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return tag in held or held == ["*"]
