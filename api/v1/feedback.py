"""Routes by which readers act on a report: feedback, their own impression, hold and release."""

import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.access.authenticate import Admin, Caller, Feedback, Reports, same_origin
from api.errors import ApiError, ErrorCode, Problem
from api.v1 import reading
from api.v1.acts import Act, Hold, StoredAct
from api.v1.requests import once, work_list
from api.v1.requests.bodies import described, json_body
from api.v1.requests.conditional import etag, is_current
from api.v1.requests.once import IdempotencyKey
from api.v1.schemas import Report as ReportBody
from db.errors import NotPossible
from db.models import ReportFeedback, Study
from db.operations.overview import StudyLine
from db.reports import feedback, holds, seals
from db.states import FeedbackKind

#: Bytes of a body: a final text of four times the longest report.
MAX_BODY_BYTES = 65_536
MAX_TEXT = 16_000
#: Printable text with line ends: PostgreSQL cannot store U+0000.
Words = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=r"^[^\x00]+$")]

router = APIRouter(prefix="/v1", tags=["feedback"], dependencies=[Depends(same_origin)])
_missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
_conflict: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (404, 409, 413, 415)}
_changing: dict[int | str, dict[str, Any]] = _conflict | {412: {"model": Problem}}
_guarded: dict[int | str, dict[str, Any]] = _conflict | {status: {"model": Problem} for status in (412, 428)}


class FeedbackRequest(BaseModel):
    """Act of a reader on the current version, or on one of its sentences."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "oneOf": [
                {"properties": {"kind": {"enum": ["opened", "accepted", "rejected"]}, "text": {"type": "null"}}},
                {
                    "properties": {"kind": {"enum": ["edited", "final"]}, "text": {"type": "string"}},
                    "required": ["text"],
                },
            ]
        },
    )

    kind: FeedbackKind = Field(description="All but `impression`.")
    sentence: int | None = Field(default=None, ge=1, le=10_000, description="From 1; null: the whole report.")
    text: Words | None = Field(default=None, description="Of `edited` and `final`: the reader's words.")

    @model_validator(mode="after")
    def _text_of_kind(self) -> Self:
        if self.kind == FeedbackKind.IMPRESSION:
            raise ValueError("an impression has its own path")
        if (self.kind in {FeedbackKind.EDITED, FeedbackKind.FINAL}) != (self.text is not None):
            raise ValueError("`edited` and `final` have a text, the others have none")
        return self


class ImpressionRequest(BaseModel):
    """The reader's own impression, before the draft was opened."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Words


class OpenRequest(BaseModel):
    """Opening of a sealed draft: an empty object."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HoldRequest(BaseModel):
    """Reason of a hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class ReleaseRequest(BaseModel):
    """Release of a held study: an empty object."""

    model_config = ConfigDict(extra="forbid", frozen=True)


IfMatch = Annotated[str | None, Header(description="ETag of the report that the reader saw; required, and not `*`.")]
#: Of a hold and a release, which are possible without a report.
IfSeen = Annotated[
    str | None, Header(alias="If-Match", description="ETag of the report that the caller saw; another one is refused.")
]


@router.get("/studies/{study_id}/report/feedback", responses=_missing)
def read_feedback(request: Request, caller: Reports, study_id: uuid.UUID) -> list[StoredAct]:
    """Return the feedback on all versions of the study's report, the oldest first."""
    reading.check_seal(caller, reading.study(caller, study_id), request.app.state.settings)
    return [StoredAct.model_validate(row) for row in feedback.of_study(caller.session, study_id)]


@router.post(
    "/studies/{study_id}/report/feedback",
    status_code=201,
    responses={201: {"model": Act}, **_guarded},
    openapi_extra=described(FeedbackRequest),
)
def send_feedback(
    request: Request,
    caller: Feedback,
    study_id: uuid.UUID,
    asked: Annotated[FeedbackRequest, Depends(json_body(FeedbackRequest, Feedback, MAX_BODY_BYTES))],
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Store an act of a reader on the current version of the report; needs `If-Match` with its ETag."""
    return once.answer(request, caller, idempotency_key, partial(act, request, caller, study_id, asked, if_match))


def act(request: Request, caller: Caller, study_id: uuid.UUID, asked: FeedbackRequest, if_match: str | None) -> Act:
    """Store an act of a reader on the current version; raises ApiError unless *if_match* is its ETag."""
    found = _seen_report(request, caller, study_id, if_match)
    if asked.sentence is not None and asked.sentence > len(found.sentences or ()):
        raise work_list.invalid("sentence: the report has fewer sentences")
    return _store(caller, study_id, found.version, asked.kind, asked.sentence, asked.text or "")


def _seen_report(request: Request, caller: Caller, study_id: uuid.UUID, if_match: str | None) -> ReportBody:
    """Return the current report; raises ApiError 428 without an ETag, and 412 if it is not what the reader saw."""
    line = reading.study(caller, study_id)
    found = reading.report(caller.session, line, request.app.state.settings)
    if found is None:
        raise reading.no_report(line)
    reading.check_seal(caller, line, request.app.state.settings)
    hint = "GET the report and send its ETag as If-Match"
    # `*` matches any report, also one that was not read.
    if if_match is None or if_match.strip() == "*":
        message = "the request needs If-Match with an ETag"
        problem = Problem(error=ErrorCode.PRECONDITION_REQUIRED, message=message, hint=hint)
        raise ApiError(428, problem)
    _check_seen(found, if_match)
    return found


def _check_seen(found: ReportBody | None, if_match: str) -> None:
    """Raise ApiError 412 unless *if_match* is the ETag of a report."""
    if found is None or not is_current(if_match, etag(found.model_dump_json().encode())):
        message = "the report is not the one that was read: another version, or its study changed"
        hint = "GET the report and send its ETag as If-Match"
        raise ApiError(412, Problem(error=ErrorCode.PRECONDITION_FAILED, message=message, hint=hint))


@router.post(
    "/studies/{study_id}/report/open",
    status_code=201,
    responses={201: {"model": Act}, **_conflict},
    openapi_extra=described(OpenRequest),
)
def open_report(
    request: Request,
    caller: Reports,
    study_id: uuid.UUID,
    _: Annotated[OpenRequest, Depends(json_body(OpenRequest, Reports, MAX_BODY_BYTES))],
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Open a sealed draft, after images of the study were sent to the caller; see the setting `drafts`."""
    return once.answer(request, caller, idempotency_key, partial(open_sealed, caller, study_id))


def open_sealed(caller: Caller, study_id: uuid.UUID) -> Act:
    """Store that the caller has seen images and opens the draft; raises ApiError 409 if no image was sent."""
    line = reading.study(caller, study_id)
    version = line.report.version if line.report else 0
    study = caller.session.get_one(Study, study_id)
    opened = seals.open_draft(caller.session, study, version, str(caller.principal))
    if opened is None:
        message, hint = "no image of the study was sent to this reader", "GET images or frames of the study first"
        raise ApiError(409, Problem(error=ErrorCode.NOT_POSSIBLE, message=message, hint=hint))
    return Act.model_validate(opened)


@router.post(
    "/studies/{study_id}/impression",
    status_code=201,
    responses={201: {"model": Act}, **_conflict},
    openapi_extra=described(ImpressionRequest),
)
def send_impression(
    request: Request,
    caller: Feedback,
    study_id: uuid.UUID,
    asked: Annotated[ImpressionRequest, Depends(json_body(ImpressionRequest, Feedback, MAX_BODY_BYTES))],
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Store the reader's own impression of the study, before this reader has opened the draft."""
    return once.answer(request, caller, idempotency_key, partial(impress, caller, study_id, asked))


def impress(caller: Caller, study_id: uuid.UUID, asked: ImpressionRequest) -> Act:
    """Store an impression; raises ApiError 409 if this reader has opened the draft."""
    line = reading.study(caller, study_id)
    version = line.report.version if line.report else 0
    return _store(caller, study_id, version, FeedbackKind.IMPRESSION, None, asked.text)


def _store(
    caller: Caller, study_id: uuid.UUID, version: int, kind: FeedbackKind, sentence: int | None, text: str
) -> Act:
    row = ReportFeedback(version=version, kind=kind, sentence=sentence, text=text, author=str(caller.principal))
    try:
        stored = feedback.add(caller.session, caller.session.get_one(Study, study_id), row)
    except NotPossible as error:
        raise _not_possible(error) from error
    return Act.model_validate(stored)


@router.post(
    "/studies/{study_id}/hold",
    status_code=201,
    responses={201: {"model": Hold}, **_changing},
    openapi_extra=described(HoldRequest),
)
def hold(
    request: Request,
    caller: Feedback,
    study_id: uuid.UUID,
    asked: Annotated[HoldRequest, Depends(json_body(HoldRequest, Feedback, MAX_BODY_BYTES))],
    if_match: IfSeen = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Hold a study: its drafts cannot be accepted until it is released. The reason must not name the patient."""
    change = partial(holds.hold, caller.session, study_id, asked.reason, str(caller.principal))
    make = partial(_changed, request, caller, reading.study(caller, study_id), if_match, change)
    return once.answer(request, caller, idempotency_key, make)


@router.post(
    "/studies/{study_id}/release",
    status_code=201,
    responses={201: {"model": Hold}, **_changing},
    openapi_extra=described(ReleaseRequest),
)
def release(
    request: Request,
    caller: Admin,
    study_id: uuid.UUID,
    _: Annotated[ReleaseRequest, Depends(json_body(ReleaseRequest, Admin, MAX_BODY_BYTES))],
    if_match: IfSeen = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Release a held study; needs the scope `admin`. With If-Match only the hold that the caller saw is released."""
    change = partial(holds.release, caller.session, study_id, str(caller.principal))
    make = partial(_changed, request, caller, reading.study(caller, study_id), if_match, change)
    return once.answer(request, caller, idempotency_key, make)


def _changed(
    request: Request, caller: Caller, line: StudyLine, if_match: str | None, change: Callable[[], object]
) -> Hold:
    """Return the changed hold of a study; raises ApiError 409, and 412 if *if_match* is not the report's ETag."""
    if if_match is not None:
        _check_seen(reading.report(caller.session, line, request.app.state.settings), if_match)
    try:
        return Hold.model_validate(change())
    except NotPossible as error:
        raise _not_possible(error) from error


def _not_possible(error: NotPossible) -> ApiError:
    hint = "GET the report: it shows the hold of its study"
    return ApiError(409, Problem(error=ErrorCode.NOT_POSSIBLE, message=str(error), hint=hint))
