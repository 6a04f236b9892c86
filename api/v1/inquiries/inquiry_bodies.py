"""Bodies of the routes of questions and of choices between diagnoses."""

import datetime as dt
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.v1.body import Banner, Body
from api.v1.schemas import Finding
from db.answers import inquiries
from db.reports.versions import BANNER
from db.states import Calibration, JobState


class QuestionRequest(BaseModel):
    """Question about the images of a study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = Field(
        description=f"One line of at most {inquiries.MAX_QUESTION_CHARACTERS} characters.",
        # Described here and refused by db.answers, also for the page: with messages for a reader.
        json_schema_extra={"minLength": 1, "maxLength": inquiries.MAX_QUESTION_CHARACTERS},
    )


class DiagnosisRequest(BaseModel):
    """Diagnoses to choose from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: list[str] = Field(
        description=f"2 to {inquiries.MAX_OPTIONS} labels of at most {inquiries.MAX_LABEL_CHARACTERS} characters;"
        ' "none of these" is always added.',
        json_schema_extra={
            "minItems": 2,
            "maxItems": inquiries.MAX_OPTIONS,
            "items": {"type": "string", "minLength": 1, "maxLength": inquiries.MAX_LABEL_CHARACTERS},
        },
    )
    several: bool = Field(default=False, description="True if more than one may be chosen.")


class Asked(Body):
    """A queued inquiry; its answer will be at *url*."""

    id: uuid.UUID = Field(description="Of the inquiry and of its job.")
    url: str


class Option(Body):
    """A label of a diagnosis."""

    label: str
    probability: float = Field(description="Model's, after calibration.")
    chosen: bool
    log_prob: float = Field(description="Natural logarithm, before calibration.")
    votes: int = Field(description="Similar earlier cases with this label.")


class SpecialistPrediction(Body):
    """Label of a specialist model that the model received."""

    name: str
    version: str
    label: str
    score: float | None
    source: str = Field(description="Way by which it arrived.")


class SimilarCase(Body):
    """An earlier case that was given to the model with the images."""

    case_id: uuid.UUID | None = Field(description="null once the case is erased.")
    similarity: float = Field(description="Cosine similarity, -1 to 1.")
    excerpt: str
    quoted: str = Field(description="Text that the model received.")
    labels: list[str] = Field(description="Labels by which it votes.")
    warnings: list[str]


class LookedAt(Body):
    """An image that the model received."""

    number: int = Field(description="From 1, in the model's order.")
    sop_instance_uid: str
    frame: int = Field(description="From 0.")
    reason: str = Field(description="Reason of the selection of this frame.")
    warnings: list[str]


class Answered(Body):
    """Answer to an inquiry."""

    banner: Banner = BANNER
    text: str = Field(description="For the reader.")
    cannot_tell: bool = Field(description="True if the confidence is below its limit, or no image can be read.")
    model_text: str = Field(description="The model's own text.")
    confidence: float | None = Field(description="0 to 1; null: not measured.")
    min_confidence: float | None = Field(description="Limit of the confidence.")
    calibration: Calibration = Field(description="Standing of the confidence; show it beside it.")
    calibration_reason: str = Field(description="Why it is not `certified`; empty if it is.")
    options: list[Option] | None = Field(
        description="In the order of the request; null for a question, empty if no image can be read."
    )
    none_of_these: float | None = Field(description="Probability that no option is right; null if none was scored.")
    chosen: list[str] | None
    vote: list[str] | None = Field(description="Labels with most votes of the similar cases.")
    specialists: list[SpecialistPrediction]
    findings: list[Finding] = Field(description="Findings that `text` states, with what each rests on.")
    limitations: list[str] = Field(description="Why it may be incomplete or outdated, for its reader.")
    basis: str
    revision: int = Field(description="Revision of the study that it rests on.")
    newer_revision: int | None = Field(description="Not null if images arrived after that.")
    evidence: list[SimilarCase]
    images: list[LookedAt]
    model_digest: str
    prompt_version: str
    provenance: dict[str, Any]
    created_at: dt.datetime


class Inquiry(Body):
    """A question or a choice between diagnoses."""

    id: uuid.UUID
    study_id: uuid.UUID
    kind: Literal["question", "diagnosis"]
    question: str | None
    options: list[str] | None
    several: bool
    requested_by: str
    requested_at: dt.datetime
    state: JobState = Field(description="`finished`: `answer` is there.")
    reason: str | None = Field(description="Stable code: why it has no answer.")
    detail: str | None
    answer: Answered | None


class UsedAnswer(Body):
    """An answer that used a case, a model, a prompt or a specialist's label; *id* is that of the inquiry."""

    id: uuid.UUID
    study_id: uuid.UUID
    kind: Literal["question", "diagnosis"]
    created_at: dt.datetime
    model_digest: str
    prompt_version: str


class AnswerPage(Body):
    """One page of a recall, the newest answer first."""

    answers: list[UsedAnswer]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class Inquiries(Body):
    """The latest inquiries of a study."""

    inquiries: list[Inquiry] = Field(description=f"The newest first, at most {inquiries.MAX_LISTED}.")
