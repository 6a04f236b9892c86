"""Studies, their reports and the pictures the reports rest on, as JSON and PNG."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from api.access.authenticate import Database, Reader
from api.errors import ApiError
from api.v1 import cursor, reading
from api.v1.schemas import Problem, Report, State, Study, StudyPage, StudyWithContent
from db.operations import overview
from db.states import PENDING

#: Most studies on one page.
LARGEST_PAGE = 100
#: A versioned picture never changes; an hour, because a reading-room machine should not keep it for longer.
PICTURE_CACHE = "private, max-age=3600, immutable"

#: The database counts pictures in 16 bits and versions in 32: a greater number is a mistake, not a search.
LARGEST_ORDINAL = 2**15 - 1
LARGEST_VERSION = 2**31 - 1

router = APIRouter(
    prefix="/v1",
    dependencies=[Reader],
    tags=["studies"],
    responses={401: {"model": Problem}, 403: {"model": Problem}},
)
_missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}


@router.get("/studies")
def list_studies(
    session: Database,
    state: Annotated[State | None, Query(description="Only studies in this state.")] = None,
    after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
) -> StudyPage:
    """The work list, the newest study first."""
    page = overview.page(session, limit=limit, state=state, after=position(after))
    following = None if page.following is None else cursor.encode(page.following)
    return StudyPage(studies=[Study.model_validate(line) for line in page.studies], next=following)


def position(after: str | None) -> overview.Position | None:
    """Where a page begins; raises ApiError 422 for a cursor we have not made."""
    try:
        return None if after is None else cursor.decode(after)
    except ValueError as error:
        hint = "take `after` from the `next` of the page before, or leave it out"
        raise ApiError(422, Problem(error="invalid_request", message=f"after: {error}", hint=hint)) from error


@router.get("/studies/{study_id}", responses=_missing)
def one_study(session: Database, study_id: uuid.UUID) -> StudyWithContent:
    """One study as it stands."""
    return reading.study_with_content(session, study_id)


@router.get("/studies/{study_id}/report", responses=_missing)
def current_report(session: Database, study_id: uuid.UUID) -> Report:
    """The current version of the study's preliminary report, with what it rests on; 404 says why there is none."""
    line = reading.study(session, study_id)
    report = reading.report(session, line)
    if report is None:
        raise _no_report(line)
    return report


def _no_report(line: overview.StudyLine) -> ApiError:
    pending = line.state in PENDING
    problem = {
        "error": "no_report_yet" if pending else "no_report",
        "message": f"the study is {line.state.replace('_', ' ')}",
        "hint": "ask again in a few seconds" if pending else "there will be none unless more images arrive",
        "state": line.state,
        "reason": line.reason,
        "detail": line.detail,
    }
    return ApiError(404, Problem.model_validate(problem))


@router.get(
    "/studies/{study_id}/report/pictures/{ordinal}",
    response_class=Response,
    responses=_missing | {200: {"content": {"image/png": {}}}, 304: {"description": "You have it already."}},
)
def picture(
    session: Database,
    study_id: uuid.UUID,
    ordinal: Annotated[int, Path(ge=1, le=LARGEST_ORDINAL, description="From 1, in the order given to the model.")],
    version: Annotated[
        int | None, Query(ge=1, le=LARGEST_VERSION, description="Version of the report; the current one if left out.")
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The picture exactly as the model saw it (PNG); with *version* it never changes and may be kept for an hour."""
    found = reading.picture(session, study_id, version, ordinal)
    tag = f'"{found.sha256}"'
    # Without a version the next report's picture will be at this address: ask each time.
    caching = PICTURE_CACHE if version else "private, no-cache"
    # A key that is gone must not find its pictures in the browser's cache.
    headers = {"ETag": tag, "Cache-Control": caching, "Vary": "Authorization, Cookie"}
    if _has(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    return Response(found.png, media_type="image/png", headers=headers)


def _has(if_none_match: str | None, tag: str) -> bool:
    """Whether the caller names the tag among those it holds (RFC 9110 section 13.1.2, weak comparison)."""
    held = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return tag in held or held == ["*"]
