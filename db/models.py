"""The tables, and why each CHECK, index and ON DELETE is what it is.

Times are written by the database's clock (``clock_timestamp()``), never by a process's: leases and settle times
compare them, and two machines do not agree on the time. The one exception is ``received_at``, written by the listener,
which must not wait for the database.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: A study's own states. While `settled`, its job says whether it waits or runs: one truth, in one place.
STUDY_STATES = ("receiving", "settled", "reported", "not_reportable", "failed", "cancelled")
#: A job's states; all but the first two are final.
JOB_STATES = ("queued", "running", "finished", "not_reportable", "failed", "superseded", "cancelled")
#: A trigger notifies this channel whenever a job becomes `queued`, whoever did it.
QUEUED_CHANNEL = "prelim_job_queued"

#: A procedure step's states (PS3.3 C.4.14); the last two are final.
STEP_STATES = ("IN PROGRESS", "COMPLETED", "DISCONTINUED")


class Base(DeclarativeBase):
    """Maps Python types to column types once."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own protocol
        str: Text,
        int: BigInteger,
        dt.datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        uuid.UUID: Uuid,
        bytes: LargeBinary,
    }


def _now() -> Any:
    return mapped_column(server_default=func.clock_timestamp())


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


class Study(Base):
    """A DICOM study as far as it has arrived; one row per Study Instance UID.

    Patient attributes stand here and nowhere else, so that there is one place to protect and one to erase.
    """

    __tablename__ = "studies"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    study_instance_uid: Mapped[str] = mapped_column(unique=True)
    patient_id: Mapped[str] = mapped_column(default="")
    patient_name: Mapped[str] = mapped_column(default="")
    patient_birth_date: Mapped[str] = mapped_column(default="")
    patient_sex: Mapped[str] = mapped_column(default="")
    accession_number: Mapped[str] = mapped_column(default="")
    study_date: Mapped[str] = mapped_column(default="")
    study_description: Mapped[str] = mapped_column(default="")
    calling_ae_title: Mapped[str] = mapped_column(default="")
    modality: Mapped[str] = mapped_column(default="")
    body_part: Mapped[str] = mapped_column(default="")
    priority: Mapped[int] = mapped_column(SmallInteger, default=0)
    state: Mapped[str] = mapped_column(default="receiving")
    #: Counts the times the study was complete; a report belongs to one revision.
    revision: Mapped[int] = mapped_column(Integer, default=1)
    first_received_at: Mapped[dt.datetime] = _now()
    #: When its latest image was indexed: the quiet time runs from here, on the database's clock.
    last_received_at: Mapped[dt.datetime] = _now()
    #: When its current revision got its first image: the cap runs from here, on the database's clock.
    revision_started_at: Mapped[dt.datetime] = _now()
    #: How many objects the sender says there are: Number of Study Related Instances (0020,1208).
    announced: Mapped[int | None] = mapped_column(Integer)
    settled_at: Mapped[dt.datetime | None]
    settle_reason: Mapped[str | None]
    #: Why the study ended without a report: a stable code and a sentence without patient data.
    reason: Mapped[str | None]
    detail: Mapped[str | None]

    __table_args__ = (
        _one_of("state", STUDY_STATES),
        # A study that ended without a report always says why.
        CheckConstraint(
            "state NOT IN ('not_reportable', 'failed', 'cancelled') OR reason IS NOT NULL",
            name="end_has_a_reason",
        ),
        CheckConstraint("state = 'receiving' OR settle_reason IS NOT NULL", name="settled_has_a_reason"),
        # The dispatcher looks only at the few that are still arriving.
        Index("studies_receiving", "last_received_at", postgresql_where=text("state = 'receiving'")),
        # The work list: newest first.
        Index("studies_newest", text("first_received_at DESC")),
    )


class Instance(Base):
    """One acknowledged SOP instance: one durable file, one row."""

    __tablename__ = "instances"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    # RESTRICT: files outlive a careless DELETE; erasing a study removes its files first.
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="RESTRICT"), index=True)
    #: Globally unique by DICOM PS3.5 section 9; the second object under one UID goes to `quarantine`.
    sop_instance_uid: Mapped[str] = mapped_column(unique=True)
    sop_class_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    series_instance_uid: Mapped[str]
    series_number: Mapped[int | None]
    instance_number: Mapped[int | None]
    modality: Mapped[str] = mapped_column(default="")
    body_part: Mapped[str] = mapped_column(default="")
    #: Whether a report can be about it: an image SOP class (db.studies.sop_classes).
    reportable: Mapped[bool]
    #: The study's revision it arrived in.
    revision: Mapped[int] = mapped_column(Integer)
    #: Below the data folder. Unique: indexing a file twice is one row.
    file_path: Mapped[str] = mapped_column(unique=True)
    file_bytes: Mapped[int]
    #: SHA-256, in hex, of transfer syntax and data set as received: what makes two objects the same.
    sha256: Mapped[str]
    association_id: Mapped[str] = mapped_column(default="")
    calling_ae_title: Mapped[str] = mapped_column(default="")
    called_ae_title: Mapped[str] = mapped_column(default="")
    received_at: Mapped[dt.datetime]
    indexed_at: Mapped[dt.datetime] = _now()


class Quarantined(Base):
    """An acknowledged file that is no instance of a study: unreadable, or a second object under a known UID."""

    __tablename__ = "quarantine"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    file_path: Mapped[str] = mapped_column(unique=True)
    file_bytes: Mapped[int]
    sha256: Mapped[str]
    sop_instance_uid: Mapped[str | None]
    calling_ae_title: Mapped[str] = mapped_column(default="")
    reason: Mapped[str]
    detail: Mapped[str]
    received_at: Mapped[dt.datetime]
    indexed_at: Mapped[dt.datetime] = _now()


class Commitment(Base):
    """A modality's request to confirm that its objects are safe (storage commitment, PS3.4 J)."""

    __tablename__ = "commitments"

    #: Names the file in which the request was kept: recording it twice is one row.
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str]
    calling_ae_title: Mapped[str]
    called_ae_title: Mapped[str]
    #: The association it came in, where its report may go too.
    association_id: Mapped[str]
    #: Pairs of SOP class and SOP instance UID, as asked.
    requested: Mapped[list[list[str]]] = mapped_column(JSONB)
    received_at: Mapped[dt.datetime]
    #: When its report is to be tried (again).
    due_at: Mapped[dt.datetime] = _now()
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    delivered_at: Mapped[dt.datetime | None]
    #: Why the last try failed.
    detail: Mapped[str | None]

    __table_args__ = (Index("commitments_due", "due_at", postgresql_where=text("delivered_at IS NULL")),)


class ProcedureStep(Base):
    """A Modality Performed Procedure Step (PS3.4 F.7), as far as it says when a study is complete."""

    __tablename__ = "procedure_steps"

    sop_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(index=True)
    #: IN PROGRESS, COMPLETED or DISCONTINUED.
    state: Mapped[str]
    #: SOP Instance UIDs of the images it made, as far as it says.
    images: Mapped[list[str]]
    updated_at: Mapped[dt.datetime] = _now()

    __table_args__ = (_one_of("state", STEP_STATES),)


class Job(Base):
    """One report to be written, for one revision of one study. The row is the truth; the Celery message a nudge."""

    __tablename__ = "jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    # CASCADE: a job says nothing without its study.
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    revision: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(default="queued")
    priority: Mapped[int] = mapped_column(SmallInteger, default=0)
    #: Grows with every claim; whoever writes must show the current one.
    fence: Mapped[int] = mapped_column(default=0)
    #: Claims so far, counted at the claim: a study that kills its worker is counted too.
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[dt.datetime | None]
    owner: Mapped[str | None]
    queued_at: Mapped[dt.datetime] = _now()
    #: The order of the queue: when it was queued, less a head start for its priority (db.jobs.claims.urgent_at).
    urgent_at: Mapped[dt.datetime] = _now()
    #: Not to be claimed before; in the future after a transient failure.
    available_at: Mapped[dt.datetime] = _now()
    #: When its message was last sent; empty: to be sent.
    sent_at: Mapped[dt.datetime | None]
    claimed_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    #: Where the last unexpected error came from, file and line, without its text: that could quote a patient.
    frames: Mapped[list[str] | None]

    __table_args__ = (
        _one_of("state", JOB_STATES),
        # One job a revision: settling twice, from two dispatchers, makes one.
        UniqueConstraint("study_id", "revision"),
        CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL) AND (state <> 'running' OR owner IS NOT NULL)",
            name="running_has_a_lease",
        ),
        CheckConstraint(
            "state NOT IN ('not_reportable', 'failed', 'superseded', 'cancelled') OR reason IS NOT NULL",
            name="end_has_a_reason",
        ),
        Index("jobs_queued", "urgent_at", postgresql_where=text("state = 'queued'")),
        Index("jobs_running", "lease_until", postgresql_where=text("state = 'running'")),
    )


class Report(Base):
    """One immutable version of a study's preliminary report; a trigger refuses UPDATE.

    DELETE is not refused: erasing a patient must be possible.
    """

    __tablename__ = "reports"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    # RESTRICT: a report is never lost as a side effect.
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="RESTRICT"))
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="RESTRICT"), unique=True)
    #: 1, 2, ... within the study; the highest is the current one and supersedes the one before.
    version: Mapped[int] = mapped_column(Integer)
    revision: Mapped[int] = mapped_column(Integer)
    #: The job's fence under which it was written.
    fence: Mapped[int]
    findings: Mapped[str]
    impression: Mapped[str]
    #: What a reader must know beside the text: images left out, cut short, not diagnostic ...
    remarks: Mapped[list[str]]
    #: "8 of 240 slices of series 3": what the report rests on.
    basis: Mapped[str]
    prompt_version: Mapped[str]
    model_digest: Mapped[str]
    #: Enough to write it again: digests of images and weights, index snapshot, library versions, timings.
    provenance: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = _now()

    __table_args__ = (UniqueConstraint("study_id", "version"),)


class Evidence(Base):
    """An earlier case that was given to the model with the study's images."""

    __tablename__ = "report_evidence"

    # CASCADE: part of its report.
    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True)
    #: 1 is the most similar.
    rank: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    # SET NULL: a reference case can be erased; what was quoted from it stays with the report that used it.
    case_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("reference_cases.id", ondelete="SET NULL"))
    #: Cosine similarity, -1 to 1.
    similarity: Mapped[float]
    excerpt: Mapped[str]


class ReportImage(Base):
    """An image exactly as the model saw it.

    In the database and not beside the spool: written in the report's own transaction, read rarely, some 100 KB each.
    """

    __tablename__ = "report_pictures"

    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True)
    #: From 1, in the order given to the model.
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    sop_instance_uid: Mapped[str]
    #: From 0.
    frame: Mapped[int] = mapped_column(Integer)
    #: Why this frame was chosen.
    reason: Mapped[str]
    #: How the pixels were made from the stored values.
    transform: Mapped[dict[str, Any]]
    warnings: Mapped[list[str]]
    png: Mapped[bytes]
    sha256: Mapped[str]


class ReferenceCase(Base):
    """An earlier case with its signed report; its vector is in the snapshots of the index."""

    __tablename__ = "reference_cases"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    #: The collection it came from and its name there; loading a collection twice adds nothing.
    source: Mapped[str]
    source_case: Mapped[str]
    modality: Mapped[str]
    body_part: Mapped[str] = mapped_column(default="")
    #: SHA-256 of the patient identifier: enough to leave out the same patient, no way back to the name.
    patient_hash: Mapped[str] = mapped_column(default="")
    study_hash: Mapped[str] = mapped_column(default="")
    report: Mapped[str]
    labels: Mapped[list[str]]
    created_at: Mapped[dt.datetime] = _now()

    __table_args__ = (UniqueConstraint("source", "source_case"),)


class ReferenceSnapshot(Base):
    """A built index on disk; the newest whose model digest matches the resident model is used."""

    __tablename__ = "reference_snapshots"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    #: Below the data folder.
    directory: Mapped[str]
    model_digest: Mapped[str] = mapped_column(index=True)
    cases: Mapped[int]
    created_at: Mapped[dt.datetime] = _now()


class ApiKey(Base):
    """A bearer key of the API; only its SHA-256 is kept."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(unique=True)
    key_sha256: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[dt.datetime] = _now()
    revoked_at: Mapped[dt.datetime | None]


class Process(Base):
    """A sign of life of one process; how operators see who is there without asking Celery."""

    __tablename__ = "processes"

    #: Host and process id, so that a restarted process is a new row.
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    started_at: Mapped[dt.datetime] = _now()
    seen_at: Mapped[dt.datetime] = _now()
    #: What it holds: model digest, slots, addresses; never patient data.
    info: Mapped[dict[str, Any]] = mapped_column(default=dict)

    __table_args__ = (Index("processes_seen", "role", "seen_at"),)
