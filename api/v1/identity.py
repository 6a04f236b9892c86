"""Routes to read and decide about the identities under one Study Instance UID."""

import datetime as dt
import uuid
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api.access.authenticate import Caller, Identity, Worklist, same_origin
from api.errors import ApiError, ErrorCode, Forbidden, Problem
from api.v1 import reading
from api.v1.body import Body
from api.v1.requests import once
from api.v1.requests.bodies import described, json_body
from api.v1.requests.once import IdempotencyKey
from api.v1.schemas import StudyWithContent
from db.errors import NotPossible
from db.models import Study
from db.operations import overview
from db.studies.identity import decisions

#: Bytes of a decision; it has about 40.
MAX_BODY_BYTES = 1024

_problems: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (401, 403, 404)}
router = APIRouter(prefix="/v1", tags=["identity"], responses=_problems)


class DecisionRequest(BaseModel):
    """Decision of a person about a held study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decision: Literal["keep_apart", "take_over", "refuse"]
    right: int | None = Field(
        default=None,
        description="`identity_number` of the right demographics for all objects (take_over); default: the latest.",
    )


class Decision(Body):
    """A decision that was made."""

    study_id: uuid.UUID
    decision: str
    differs: list[str]
    decided_by: str
    decided_at: dt.datetime


class Identities(Body):
    """Studies of one Study Instance UID, one for each identity, and the decisions about them."""

    study_instance_uid: str
    studies: list[StudyWithContent]
    decisions: list[Decision]


@router.get("/studies/{study_id}/identity")
def identities(request: Request, caller: Worklist, study_id: uuid.UUID) -> Identities:
    """Return the identities under the Study Instance UID of a study, and the decisions about them."""
    return _identities(request, caller, reading.study(caller, study_id).study_instance_uid)


def _identities(request: Request, caller: Caller, uid: str) -> Identities:
    lines = reading.identities(caller, uid)
    reading.mark(caller, lines, request.app.state.settings)
    decided = decisions.decided(caller.session, [line.id for line in lines])
    return Identities(
        study_instance_uid=uid,
        studies=[reading.with_content(caller.session, line) for line in lines],
        decisions=[Decision.model_validate(row) for row in decided],
    )


def _require_all_identities(caller: Caller, uid: str) -> None:
    """Raise Forbidden if the decision would change a study that the caller may not see."""
    if len(reading.identities(caller, uid)) < len(overview.studies(caller.session, [uid])):
        hint = "ask a person whose key is not restricted to AE titles to decide"
        raise Forbidden("another site sent an identity of this study", hint)


@router.post(
    "/studies/{study_id}/identity",
    dependencies=[Depends(same_origin)],
    responses={200: {"model": Identities}, **{status: {"model": Problem} for status in (409, 413, 415, 422)}},
    openapi_extra=described(DecisionRequest),
)
def decide(
    request: Request,
    caller: Identity,
    study_id: uuid.UUID,
    asked: Annotated[DecisionRequest, Depends(json_body(DecisionRequest, Identity, MAX_BODY_BYTES))],
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Decide about a held study; needs the scope `identity`. Repeating a decision changes nothing."""
    uid = reading.study(caller, study_id).study_instance_uid
    _require_all_identities(caller, uid)
    make = partial(_decide, request, caller, study_id, asked)
    return once.answer(
        request, caller, idempotency_key, make, status=200, again=partial(_identities, request, caller, uid)
    )


def _decide(request: Request, caller: Caller, study_id: uuid.UUID, asked: DecisionRequest) -> Identities:
    study = caller.session.get_one(Study, study_id)
    try:
        remaining = decisions.decide(
            caller.session, study, decisions.Decision(asked.decision), str(caller.principal), right=asked.right
        )
    except NotPossible as error:
        hint = "GET the same path to see the identities and the decisions about them"
        raise ApiError(409, Problem(error=ErrorCode.NOT_POSSIBLE, message=str(error), hint=hint)) from error
    return _identities(request, caller, remaining.study_instance_uid)
