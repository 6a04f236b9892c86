"""What leaves the API: every field is named here, so that a new column is never published by accident."""

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from db.reports.versions import BANNER
from db.states import DisplayedState

State = DisplayedState
Banner = Annotated[str, Field(description="To be shown wherever anything of the report is shown.")]


class Body(BaseModel):
    """Base: read from our dataclasses and rows, never changed."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class Problem(Body):
    """Why there is nothing to hand over, and what to do about it."""

    error: str = Field(description="Stable code.")
    message: str
    hint: str
    state: State | None = Field(default=None, description="The study's state, where that is why.")
    reason: str | None = Field(default=None, description="Stable code of why the study has no report.")
    detail: str | None = None


class Health(Body):
    """Whether reports are being written."""

    status: Literal["ok", "degraded"]
    database: Literal["ok", "unreachable"]
    workers: int = Field(description="Workers that gave a sign of life in the last 30 seconds.")
    alarms: list[str] = Field(default=[], description="What needs a person: work that waits and does not get done.")


class ReportSummary(Body):
    """What the list says of a study's current report."""

    banner: Banner = BANNER
    version: int
    basis: str
    created_at: dt.datetime
    outdated: bool = Field(description="Images have arrived that this report knows nothing of.")


class Study(Body):
    """A study as far as it has arrived."""

    id: uuid.UUID
    study_instance_uid: str
    state: State
    modality: str
    body_part: str
    patient_id: str
    patient_name: str = Field(description="As in DICOM: Family^Given^Middle^Prefix^Suffix.")
    patient_birth_date: str = Field(description="As in DICOM: YYYYMMDD.")
    patient_sex: str
    accession_number: str
    study_date: str = Field(description="As in DICOM: YYYYMMDD.")
    study_description: str
    priority: int = Field(description="Greater is more urgent; 0 is routine.")
    revision: int = Field(description="How often the study was taken for complete, or is about to be.")
    received_at: dt.datetime
    last_received_at: dt.datetime
    settled_at: dt.datetime | None
    settle_reason: str | None = Field(description="Why it was taken for complete.")
    reason: str | None = Field(description="Why it ended without a report: a stable code.")
    detail: str | None
    report: ReportSummary | None


class Content(Body):
    """How much of a study has arrived."""

    series: int
    instances: int
    images: int = Field(description="Instances a report can be about.")


class StudyWithContent(Study):
    """One study."""

    content: Content


class StudyPage(Body):
    """A part of the work list, the newest first."""

    studies: list[Study]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class Evidence(Body):
    """An earlier case that was given to the model with the pictures."""

    rank: int = Field(description="1 is the most similar.")
    case_id: uuid.UUID | None = Field(description="null once the case was erased.")
    similarity: float = Field(description="Cosine similarity, -1 to 1.")
    excerpt: str
    source: str | None
    modality: str | None
    body_part: str | None


class Picture(Body):
    """A picture the model saw; the PNG is at *url*."""

    ordinal: int = Field(description="From 1, in the order given to the model.")
    url: str
    sop_instance_uid: str
    frame: int = Field(description="From 0.")
    reason: str = Field(description="Why this frame was chosen.")
    transform: dict[str, Any] = Field(description="How the pixels were made from the stored values.")
    warnings: list[str]
    sha256: str = Field(description="Of the PNG, in hex.")


class Report(Body):
    """One version of a study's preliminary report."""

    banner: Banner = BANNER
    study_id: uuid.UUID
    version: int
    revision: int = Field(description="The study's revision it was written for.")
    outdated: bool = Field(description="Images have arrived that this report knows nothing of.")
    findings: str
    impression: str
    remarks: list[str] = Field(description="What a reader must know beside the text.")
    basis: str = Field(description="What the report rests on.")
    created_at: dt.datetime
    evidence: list[Evidence]
    pictures: list[Picture]
    model_digest: str
    prompt_version: str
    provenance: dict[str, Any] = Field(description="Enough to write it again.")
