"""Routes of questions and of choices between diagnoses about a study."""

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from api.access.authenticate import Caller, Questions, same_origin
from api.errors import ApiError, ErrorCode, NotFound, Problem
from api.v1 import grounds, reading
from api.v1.inquiries.inquiry_bodies import (
    Answered,
    AnswerPage,
    Asked,
    DiagnosisRequest,
    Inquiries,
    Inquiry,
    LookedAt,
    Option,
    QuestionRequest,
    SimilarCase,
    SpecialistPrediction,
    UsedAnswer,
)
from api.v1.requests import once
from api.v1.requests.bodies import described, json_body
from api.v1.requests.once import IdempotencyKey
from api.v1.requests.recalls import Recall, recalled
from db.answers import inquiries, stored
from db.answers.answer import Choice, Diagnosis, Question, Stored
from db.answers.inquiries import AskedInquiry
from db.errors import InvalidInquiry, NotPossible
from db.models import Study
from db.operations import recall
from db.states import JobKind

#: Bytes of a body: 64 options of 100 characters, each of up to 4 bytes, and JSON's own.
MAX_BODY_BYTES = 32_768

_problems: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (401, 403, 404)}
router = APIRouter(prefix="/v1", tags=["questions"], responses=_problems)


def ask(caller: Caller, study_id: uuid.UUID, asked: Question | Choice, path: str) -> Asked:
    """Queue an inquiry about a study that the caller may see; raises ApiError 422 and 409."""
    study = caller.session.get_one(Study, study_id, with_for_update=True)
    try:
        inquiry_id = inquiries.ask(caller.session, study, asked, str(caller.principal))
    except InvalidInquiry as error:
        hint = "send one line of plain text: see /docs for the limits"
        raise ApiError(422, Problem(error=ErrorCode.INVALID_REQUEST, message=str(error), hint=hint)) from error
    except NotPossible as error:
        hint = "GET the study to see its state"
        raise ApiError(409, Problem(error=ErrorCode.NOT_POSSIBLE, message=str(error), hint=hint)) from error
    return Asked(id=inquiry_id, url=f"/v1/{path}/{inquiry_id}")


def _queued(request: Request, caller: Caller, key: str | None, make: Callable[[], Asked]) -> JSONResponse:
    response = once.answer(request, caller, key, make, status=202)
    response.headers["Location"] = json.loads(bytes(response.body))["url"]
    return response


_accepted: dict[int | str, dict[str, Any]] = {
    202: {"model": Asked},
    **{status: {"model": Problem} for status in (409, 413, 415, 422)},
}


@router.post(
    "/studies/{study_id}/questions",
    status_code=202,
    dependencies=[Depends(same_origin)],
    responses=_accepted,
    openapi_extra=described(QuestionRequest),
)
def ask_question(
    request: Request,
    caller: Questions,
    study_id: uuid.UUID,
    asked: Annotated[QuestionRequest, Depends(json_body(QuestionRequest, Questions, MAX_BODY_BYTES))],
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Queue a question about the images of a study, ahead of routine reports."""
    reading.study(caller, study_id)
    make = partial(ask, caller, study_id, Question(asked.question), "questions")
    return _queued(request, caller, idempotency_key, make)


@router.post(
    "/studies/{study_id}/diagnoses",
    status_code=202,
    dependencies=[Depends(same_origin)],
    responses=_accepted,
    openapi_extra=described(DiagnosisRequest),
)
def ask_diagnosis(
    request: Request,
    caller: Questions,
    study_id: uuid.UUID,
    asked: Annotated[DiagnosisRequest, Depends(json_body(DiagnosisRequest, Questions, MAX_BODY_BYTES))],
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Queue a choice between diagnoses by the images of a study, ahead of routine reports."""
    reading.study(caller, study_id)
    make = partial(ask, caller, study_id, Choice(asked.options, several=asked.several), "diagnoses")
    return _queued(request, caller, idempotency_key, make)


@router.get("/studies/{study_id}/questions")
def questions_of_study(request: Request, caller: Questions, study_id: uuid.UUID) -> Inquiries:
    """Return the latest questions about a study with their answers."""
    return _of_study(request, caller, study_id, JobKind.QUESTION)


@router.get("/studies/{study_id}/diagnoses")
def diagnoses_of_study(request: Request, caller: Questions, study_id: uuid.UUID) -> Inquiries:
    """Return the latest choices between diagnoses about a study with their answers."""
    return _of_study(request, caller, study_id, JobKind.DIAGNOSIS)


@router.get("/questions/{inquiry_id}")
def question(request: Request, caller: Questions, inquiry_id: uuid.UUID) -> Inquiry:
    """Return a question, and its answer when it is there."""
    return _one(request, caller, inquiry_id, JobKind.QUESTION)


@router.get("/diagnoses/{inquiry_id}")
def diagnosis(request: Request, caller: Questions, inquiry_id: uuid.UUID) -> Inquiry:
    """Return a choice between diagnoses, and its answer when it is there."""
    return _one(request, caller, inquiry_id, JobKind.DIAGNOSIS)


@router.get("/answers")
def used_answers(caller: Questions, asked: Annotated[Recall, Depends(recalled)]) -> AnswerPage:
    """Recall: return every answer that used a case, a model, a prompt or a specialist's label, the newest first."""
    rows, following = asked.page(caller, "answers", recall.answers)
    return AnswerPage(answers=[UsedAnswer.model_validate(row) for row in rows], next=following)


def _of_study(request: Request, caller: Caller, study_id: uuid.UUID, kind: JobKind) -> Inquiries:
    reading.check_seal(caller, reading.study(caller, study_id), request.app.state.settings)
    return Inquiries(inquiries=of_study(caller, study_id, kind, regions=_regions(request)))


def of_study(caller: Caller, study_id: uuid.UUID, kind: JobKind | None = None, *, regions: bool) -> list[Inquiry]:
    """Return the inquiries of a study that the caller may see."""
    found = inquiries.of_study(caller.session, study_id, kind)
    return [_inquiry(caller, asked, regions=regions) for asked in found]


def _one(request: Request, caller: Caller, inquiry_id: uuid.UUID, kind: JobKind) -> Inquiry:
    found = inquiries.find(caller.session, inquiry_id)
    if found is None or found.kind != kind:
        raise NotFound(f"{kind} not found", "take the id from the answer to its POST")
    reading.check_seal(caller, reading.study(caller, found.study_id), request.app.state.settings)
    return _inquiry(caller, found, regions=_regions(request))


def _regions(request: Request) -> bool:
    shown: bool = request.app.state.settings.api.show_regions
    return shown


def _inquiry(caller: Caller, found: AskedInquiry, *, regions: bool) -> Inquiry:
    asked = found.asked
    answer = stored.read(caller.session, found.id)
    same = ("id", "study_id", "kind", "requested_by", "requested_at", "state", "reason", "detail")
    return Inquiry(
        **{name: getattr(found, name) for name in same},
        question=asked.text if isinstance(asked, Question) else None,
        options=list(asked.options) if isinstance(asked, Choice) else None,
        several=isinstance(asked, Choice) and asked.several,
        answer=answer and _answered(answer, regions=regions),
    )


def _answered(answer: Stored, *, regions: bool) -> Answered:
    result = answer.result
    choice = result if isinstance(result, Diagnosis) else None
    same = (
        *("text", "cannot_tell", "model_text", "confidence", "min_confidence", "basis"),
        *("model_digest", "prompt_version", "provenance"),
    )
    cases = dict(enumerate(result.evidence, start=1))
    return Answered(
        **{name: getattr(result, name) for name in same},
        calibration=answer.calibration,
        calibration_reason=answer.calibration_reason,
        options=choice and [Option.model_validate(option) for option in choice.options],
        none_of_these=choice and choice.none_of_these,
        chosen=choice and choice.chosen,
        vote=choice and choice.vote,
        specialists=[SpecialistPrediction.model_validate(one) for one in result.predictions],
        findings=[grounds.finding(one, cases, regions=regions) for one in result.findings],
        limitations=answer.limitations,
        revision=answer.revision,
        newer_revision=answer.newer_revision,
        evidence=[SimilarCase.model_validate(case) for case in result.evidence],
        images=[LookedAt(**asdict(image)) for image in result.images],
        created_at=answer.created_at,
    )
