"""Routes to read and decide about the identities under one Study Instance UID."""

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.access.authenticate import Database, Decider, Reader, same_origin
from api.errors import ApiError, ErrorCode, Problem
from api.v1 import reading
from api.v1.schemas import Body, StudyWithContent
from db.access.keys import KeyHolder
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


async def _decision(request: Request, _: Annotated[KeyHolder, Decider]) -> DecisionRequest:
    """Read the body after the key was checked, so that a request without a key cannot fill the memory."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise _invalid("the body is too large")
    try:
        return DecisionRequest.model_validate_json(body)
    except ValidationError as error:
        # The input is not repeated.
        raise _invalid("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None


def _invalid(message: str) -> ApiError:
    return ApiError(422, Problem(error=ErrorCode.INVALID_REQUEST, message=message, hint="see /docs for the body"))


@router.get("/studies/{study_id}/identity", dependencies=[Reader])
def identities(session: Database, study_id: uuid.UUID) -> Identities:
    """Return the identities under the Study Instance UID of a study, and the decisions about them."""
    uid = reading.study(session, study_id).study_instance_uid
    lines = sorted(overview.studies(session, [uid]), key=lambda line: line.identity_number)
    decided = decisions.decided(session, [line.id for line in lines])
    return Identities(
        study_instance_uid=uid,
        studies=[reading.study_with_content(session, line.id) for line in lines],
        decisions=[Decision.model_validate(row) for row in decided],
    )


@router.post(
    "/studies/{study_id}/identity",
    dependencies=[Depends(same_origin)],
    responses={409: {"model": Problem}, 422: {"model": Problem}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": DecisionRequest.model_json_schema()}},
        }
    },
)
def decide(
    session: Database,
    study_id: uuid.UUID,
    asked: Annotated[DecisionRequest, Depends(_decision)],
    holder: Annotated[KeyHolder, Decider],
) -> Identities:
    """Decide about a held study; needs the scope `identity`. Repeating a decision changes nothing."""
    reading.study(session, study_id)
    study = session.get_one(Study, study_id)
    try:
        remaining = decisions.decide(
            session, study, decisions.Decision(asked.decision), f"key {holder.name}", right=asked.right
        )
    except NotPossible as error:
        hint = "GET the same path to see the identities and the decisions about them"
        raise ApiError(409, Problem(error=ErrorCode.NOT_POSSIBLE, message=str(error), hint=hint)) from error
    return identities(session, remaining.id)
