"""Route by which specialist models send their predictions."""

import uuid
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.access.authenticate import Caller, Predictions, same_origin
from api.errors import ApiError, ErrorCode, Forbidden, Problem
from api.v1 import reading
from api.v1.body import Body
from api.v1.requests import once
from api.v1.requests.bodies import described, json_body
from api.v1.requests.once import IdempotencyKey
from db.answers import predictions
from db.errors import InvalidPrediction

#: Predictions of one request, and its bytes.
MAX_PREDICTIONS = 1000
MAX_BODY_BYTES = 1_048_576
#: Text that db.answers.predictions accepts; it refuses others in words.
LINE: dict[str, JsonValue] = {"minLength": 1, "maxLength": predictions.MAX_CHARACTERS}

_problems: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (401, 403, 404)}
router = APIRouter(prefix="/v1", tags=["predictions"], responses=_problems)


class SpecialistLabel(BaseModel):
    """Label and score of a specialist model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the model.", json_schema_extra=LINE)
    version: str = Field(json_schema_extra=LINE)
    label: str = Field(json_schema_extra=LINE)
    #: Strict: true would become 1.0.
    score: float | None = Field(default=None, strict=True)


class SpecialistDraft(BaseModel):
    """Report text of a specialist model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the model.", json_schema_extra=LINE)
    version: str = Field(json_schema_extra=LINE)
    draft: str = Field(
        description="Findings and impression; the model that writes the report receives statements of it, as case 0.",
        json_schema_extra={"minLength": 1, "maxLength": predictions.MAX_DRAFT_CHARACTERS},
    )


class LabelOfStudy(SpecialistLabel):
    """The same, of a study that need not have arrived."""

    study: str = Field(description="Study Instance UID or accession number.", json_schema_extra=LINE)


class DraftOfStudy(SpecialistDraft):
    """The same, of a study that need not have arrived."""

    study: str = Field(description="Study Instance UID or accession number.", json_schema_extra=LINE)


class OfStudyRequest(BaseModel):
    """Predictions about the study of the path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    predictions: list[SpecialistLabel | SpecialistDraft] = Field(max_length=MAX_PREDICTIONS)


class OfAnyRequest(BaseModel):
    """Predictions about any studies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    predictions: list[LabelOfStudy | DraftOfStudy] = Field(max_length=MAX_PREDICTIONS)


class Kept(Body):
    """Number of predictions that were not stored before."""

    stored: int


_created: dict[int | str, dict[str, Any]] = {
    201: {"model": Kept},
    **{status: {"model": Problem} for status in (409, 413, 415, 422)},
}


@router.post(
    "/studies/{study_id}/predictions",
    status_code=201,
    dependencies=[Depends(same_origin)],
    responses=_created,
    openapi_extra=described(OfStudyRequest),
)
def of_study(
    request: Request,
    caller: Predictions,
    study_id: uuid.UUID,
    asked: Annotated[OfStudyRequest, Depends(json_body(OfStudyRequest, Predictions, MAX_BODY_BYTES))],
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Store predictions of specialist models about a study: they are shown to the model, and train nothing."""
    line = reading.study(caller, study_id)
    given = [one.model_dump() | {"study": line.study_instance_uid} for one in asked.predictions]
    return once.answer(request, caller, idempotency_key, partial(_store, caller, given, study_id))


@router.post(
    "/predictions",
    status_code=201,
    dependencies=[Depends(same_origin)],
    responses=_created,
    openapi_extra=described(OfAnyRequest),
)
def of_any(
    request: Request,
    caller: Predictions,
    asked: Annotated[OfAnyRequest, Depends(json_body(OfAnyRequest, Predictions, MAX_BODY_BYTES))],
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Store predictions about studies by Study Instance UID or accession number, which may arrive later."""
    if caller.principal.ae_titles is not None:
        hint = "send them to /v1/studies/{id}/predictions, or use a key without a restriction to AE titles"
        raise Forbidden("a key of one site cannot name studies that may belong to another", hint)
    given = [one.model_dump() for one in asked.predictions]
    return once.answer(request, caller, idempotency_key, partial(_store, caller, given))


def _store(caller: Caller, given: list[dict[str, Any]], study_id: uuid.UUID | None = None) -> Kept:
    try:
        found = [predictions.received(values) for values in given]
    except InvalidPrediction as error:
        hint = "nothing was stored: see /docs for the limits"
        raise ApiError(422, Problem(error=ErrorCode.INVALID_REQUEST, message=str(error), hint=hint)) from error
    return Kept(stored=predictions.add(caller.session, found, str(caller.principal), study_id))
