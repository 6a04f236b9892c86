"""Response bodies of the API; every published field is listed here, so that no new column is published by accident."""

import datetime as dt
import uuid
from typing import Any, Literal

from pydantic import Field

from api.v1.acts import Hold
from api.v1.body import Banner, Body
from api.v1.inquiries.draft_body import SpecialistDraft
from db.errors import Reason
from db.reports.versions import BANNER
from db.states import Calibration, Check, CheckState, DisplayedState, Verdict


class Live(Body):
    """Answer of a process that serves requests."""

    status: Literal["alive"] = "alive"


class ListenerProcess(Body):
    """One process of a listener."""

    process: str = Field(description="Host name and process id.")
    open_associations: int
    draining: bool = Field(description="True if it only serves its associations to their end.")


class Health(Body):
    """Health of the system."""

    status: Literal["ok", "degraded"]
    database: Literal["ok", "unreachable"]
    workers: int = Field(description="Workers with a heartbeat in the last 30 seconds.")
    listeners: list[ListenerProcess] = Field(default=[], description="Processes that receive, alive as workers are.")
    alarms: list[str] = Field(default=[], description="Codes of raised alarms, as in docs/reliability.md.")


class ReportSummary(Body):
    """Summary of a study's current report."""

    banner: Banner = BANNER
    version: int
    basis: str
    created_at: dt.datetime
    outdated: bool = Field(description="True if images arrived after this report was written.")
    checked: bool = Field(description="False: no check is stored with it, so that an empty `attention` says nothing.")


class Reader(Body):
    """Key or person with the page of a study open; a key shared by readers is one name."""

    name: str = Field(description="Kind and name, as in feedback.")
    until: dt.datetime = Field(description="Counts as reading until then, unless the page is opened or refreshed.")
    own: bool = Field(description="True: the caller itself.")


class Study(Body):
    """Current state of a study."""

    id: uuid.UUID
    study_instance_uid: str
    identity_number: int = Field(description="1 for the identity received first under the Study Instance UID.")
    state: DisplayedState
    modality: str
    body_part: str
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str = Field(description="As in DICOM: Family^Given^Middle^Prefix^Suffix.")
    patient_birth_date: str = Field(description="As in DICOM: YYYYMMDD.")
    patient_sex: str
    accession_number: str
    study_date: str = Field(description="As in DICOM: YYYYMMDD.")
    study_description: str
    indication: str | None = Field(
        description="Reason for the requested procedure, as text and codes; empty: none given, null: not read."
    )
    requested_procedure: str | None = Field(description="Its description, as text and codes; as `indication`.")
    not_read: list[str] = Field(description="Fields of which a header had a value that was too long to be read.")
    priority: int = Field(description="Higher is more urgent; 0 is routine.")
    revision: int = Field(description="Number of times the study was settled, including the next one.")
    received_at: dt.datetime
    last_received_at: dt.datetime
    settled_at: dt.datetime | None
    settle_reason: str | None = Field(description="Why it was judged complete.")
    reason: str | None = Field(description="Stable code: why it ended without a report.", examples=[*Reason])
    detail: str | None
    differs: list[str] | None = Field(description="Fields in which the identities of a held study differ.")
    report: ReportSummary | None
    attention: list[str] = Field(
        description="Why a person must look at it, empty if nothing marks it: `failed`, `held`, failed checks,"
        " `critical_finding`, verdicts `contradicted` and `unsupported`; `report` for these while drafts are sealed."
    )
    readers: list[Reader] = Field(description="Who has its page open.")


class Content(Body):
    """Numbers of received objects of a study."""

    series: int
    instances: int
    images: int = Field(description="Instances that a report can cover.")


class StudyWithContent(Study):
    """A study and the numbers of its objects."""

    content: Content


class StudyPage(Body):
    """One page of the work list, newest study first."""

    studies: list[Study]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class Evidence(Body):
    """An earlier case that was given to the model with the images."""

    rank: int = Field(description="From 1, the most similar.")
    case_id: uuid.UUID | None = Field(description="null once the case is erased.")
    similarity: float = Field(description="Cosine similarity, -1 to 1.")
    excerpt: str
    quoted: str | None = Field(
        description="Text that the model received; empty if it did not receive the case, null in older reports."
    )
    warnings: list[str] = Field(description="Why the model did not receive the case, or a part of its text.")
    source: str | None
    modality: str | None
    body_part: str | None
    part: str = Field(default="", description="Part of the study, as headed in the text: CT HEAD. Empty if unknown.")


class Image(Body):
    """An image as given to the model; its PNG is at *url*."""

    ordinal: int = Field(description="From 1, in the model's order.")
    url: str
    sop_instance_uid: str
    frame: int = Field(description="From 0.")
    reason: str = Field(description="Reason of the selection of this frame.")
    transform: dict[str, Any] = Field(description="Rendering steps from stored values to pixels.")
    warnings: list[str]
    part: str = Field(default="", description="Part of the study, as headed in the text: CT HEAD. Empty if unknown.")
    sha256: str = Field(description="Digest of the PNG, in hexadecimal.")


class Region(Body):
    """Rectangle in parts of the image's width and height, from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


class InImage(Body):
    """Score of a finding in the image that shows it most, from the labels of the reference set."""

    score: float = Field(description="At or above `threshold` the image shows the finding.")
    threshold: float = Field(description="Separates reference images with the finding from those without it.")
    image: int = Field(description="`ordinal` of the image.")
    shares: list[float] | None = Field(
        description="Share of each patch, row by row; they sum to the score. Null where `region` is."
    )
    region: Region | None = Field(description="Null unless affirmed and regions are shown (`PRELIM_SHOW_REGIONS`).")


class Citation(Body):
    """A sentence of an earlier case that affirms or denies a finding."""

    rank: int = Field(description="`rank` of the case in `evidence`.")
    case_id: uuid.UUID | None = Field(description="null once the case is erased.")
    similarity: float = Field(description="Cosine similarity, -1 to 1. It says nothing about the finding.")
    sentence: str = Field(description="Words of the earlier report; empty once the case is erased.")


class Finding(Body):
    """A finding that a sentence states, and what it rests on."""

    name: str
    side: str
    zone: str
    size: str
    certainty: Literal["present", "uncertain", "absent"]
    start: int = Field(description="Offset of its words in the section.")
    end: int
    verdict: Verdict
    flagged: bool = Field(description="True if it must be checked first: show the flag, and `verdict` always.")
    in_image: InImage | None = Field(description="Null if not measurable.")
    log_prob: float | None = Field(description="Natural logarithm of the probability the model gave to its words.")
    affirmed_by: list[Citation]
    denied_by: list[Citation]


class Sentence(Body):
    """A sentence of the report."""

    section: Literal["findings", "impression"]
    start: int = Field(description="Offset in the section.")
    end: int
    text: str
    flagged: bool
    findings: list[Finding]


class Omission(Body):
    """A finding that the image shows and the text does not mention."""

    name: str
    side: str
    in_image: InImage


class CheckResult(Body):
    """Result of a check of the draft, made by rules and not by a person."""

    name: str = Field(description="Stable name.", examples=[*Check])
    state: CheckState = Field(description="`warning`: look here; `notice`: no fault.")
    sentences: list[str] = Field(description="Problems found, or why the check could not be made.")


class CertifiedGroup(Body):
    """Figures of a group of findings on the set of a certificate."""

    margin: float | None = Field(description="What a score must exceed its threshold by; null: not certified.")
    affirmed: int
    shown: int = Field(description="Affirmed findings that were not flagged.")
    wrong: int = Field(description="Of these.")
    studies: int = Field(description="Studies with a shown finding.")
    wrong_studies: int = Field(description="Studies with a wrong one.")
    bound: float = Field(description="Upper confidence bound of the share of wrong studies.")
    missing: int = Field(description="Findings of further studies that certifying it takes at least.")


class Certificate(Body):
    """A bound on the error of affirmed findings that are not flagged, for studies like those of its set."""

    id: uuid.UUID
    alpha: float = Field(description="Highest share of studies with a wrong shown finding of a group.")
    delta: float = Field(description="Probability that a certified group exceeds it.")
    case_set: dict[str, Any] = Field(description="What, how many, where, when and from which seed.")
    groups: dict[str, CertifiedGroup]
    created_at: dt.datetime


class RequestedFinding(Body):
    """A finding that the request of a study names."""

    name: str
    mentioned: bool = Field(description="True if the report affirms, denies or names it as possible, on any side.")


class ImagingRequest(Body):
    """Request of a study, and whether the report mentions the findings that it names, by the words of both."""

    indication: str | None = Field(description="As of the study.")
    requested_procedure: str | None = Field(description="As of the study.")
    mentioned: Literal["all", "some", "none", "unknown"] = Field(description="Of `findings`.")
    unknown_because: str = Field(description="Why `mentioned` is `unknown`; else empty.")
    findings: list[RequestedFinding]


class Report(Body):
    """One version of a study's preliminary report."""

    banner: Banner = BANNER
    study_id: uuid.UUID
    version: int
    revision: int = Field(description="Revision of the study that it covers.")
    outdated: bool = Field(description="True if images arrived after this report was written.")
    superseded: bool = Field(description="True if a newer version exists.")
    hold: Hold | None = Field(description="Open hold of the study: the draft cannot be accepted.")
    imaging_request: ImagingRequest
    findings: str
    impression: str
    calibration: Calibration | None = Field(
        description="Standing of the verdicts; show it beside them. Null: older report, whose findings are not stored."
    )
    calibration_reason: str = Field(description="Why it is not `certified`; empty if it is.")
    certificate: Certificate | None = Field(description="Null unless `certified`.")
    sentences: list[Sentence] | None = Field(description="Sentences in the order of the text. Null as `calibration`.")
    also_look_for: list[Omission] | None = Field(
        description="Findings that the images show and the text does not mention, never certified. Null as `sentences`."
    )
    limitations: list[str] = Field(description="Why the text may be incomplete or wrong, for its reader.")
    remarks: list[str] = Field(description="Old name of `limitations`.", deprecated=True)
    basis: str = Field(description="Images that the report is based on.")
    created_at: dt.datetime
    evidence: list[Evidence]
    specialist_draft: SpecialistDraft | None = Field(description="Null if none was sent before the report was written.")
    checks: list[CheckResult] = Field(description="Warnings first; empty for reports of earlier releases.")
    images: list[Image]
    pictures: list[Image] = Field(description="Old name of `images`.", deprecated=True)
    model_digest: str
    prompt_version: str
    provenance: dict[str, Any] = Field(description="Digests, versions and timings, enough to reproduce it.")
