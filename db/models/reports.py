"""Versions of reports, the cases they quote and the images they rest on."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, SmallInteger, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, one_of, time_ordered_id
from db.states import Calibration, CheckState


class Report(Base):
    """One immutable version of a study's preliminary report; a trigger refuses UPDATE.

    DELETE is not refused: erasing a patient must be possible.
    """

    __tablename__ = "reports"

    id: Mapped[uuid.UUID] = time_ordered_id()
    # RESTRICT: a report is never deleted as a side effect.
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="RESTRICT"))
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="RESTRICT"), unique=True)
    #: 1, 2, ... within the study; the highest is current and supersedes the others.
    version: Mapped[int] = mapped_column(Integer)
    revision: Mapped[int] = mapped_column(Integer)
    #: The job's fence under which it was written.
    fence: Mapped[int]
    findings: Mapped[str]
    impression: Mapped[str]
    #: Sentences for the reader: why the text may be incomplete or wrong.
    limitations: Mapped[list[str]]
    #: Images the report is based on: "8 of 240 slices of series 3".
    basis: Mapped[str]
    prompt_version: Mapped[str]
    model_digest: Mapped[str]
    #: Digests of images and weights, index snapshot, library versions, timings: enough to reproduce it.
    provenance: Mapped[dict[str, Any]]
    #: Standing of the verdicts on its findings; NULL: written before findings were stored with reports.
    calibration: Mapped[str | None]
    created_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (
        UniqueConstraint("study_id", "version"),
        one_of("calibration", Calibration),
        # Alarm: time of the latest report.
        Index("reports_created", "created_at"),
        # Recall: every report of a model or prompt.
        Index("reports_model", "model_digest", text("id DESC")),
        Index("reports_prompt", "prompt_version", text("id DESC")),
    )


class Evidence(Base):
    """An earlier case given to the model with the study's images."""

    __tablename__ = "report_evidence"

    # CASCADE: part of its report.
    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True)
    #: 1 is the most similar.
    rank: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    # SET NULL: a reference case can be erased; a trigger then empties its words here and in report_citations.
    case_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("reference_cases.id", ondelete="SET NULL"), index=True)
    #: Cosine similarity, -1 to 1.
    similarity: Mapped[float]
    #: Its whole report, for the reader; empty once it is erased.
    excerpt: Mapped[str]
    #: Text of the case in the prompt, empty if the model did not receive it; NULL before it was stored. A trigger
    #: empties it when the case is erased.
    quoted: Mapped[str | None]
    #: Sentences for the reader about this case: why the model did not receive it.
    warnings: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))


class SpecialistDraft(Base):
    """Draft of a specialist model for the study, which the report's author model received as case 0, or could not."""

    __tablename__ = "report_specialist_drafts"

    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True)
    #: Of the specialist model; recall.
    name: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]
    #: Way by which it arrived, and of whom.
    source: Mapped[str]
    #: The whole draft, for the reader.
    text: Mapped[str]
    #: Part of it in the prompt; empty if the model did not receive it.
    quoted: Mapped[str]
    #: Sentences for the reader: why the model did not receive it, or a part of it.
    warnings: Mapped[list[str]]


class ReportCheck(Base):
    """Result of one check of a report's draft."""

    __tablename__ = "report_checks"

    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True)
    #: A db.states.Check of the release that wrote the report: a later release may have dropped it.
    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    sentences: Mapped[list[str]]

    __table_args__ = (one_of("state", CheckState),)


class ReportImage(Base):
    """An image exactly as it was given to the model, in the database or in a file (db.reports.image_files)."""

    __tablename__ = "report_images"

    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("reports.id", ondelete="CASCADE"), primary_key=True)
    #: Position among the model's images, from 1.
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    sop_instance_uid: Mapped[str]
    #: Frame number, from 0.
    frame: Mapped[int] = mapped_column(Integer)
    #: Reason of the selection, for the reader.
    reason: Mapped[str]
    #: Rendering steps from stored values to pixels.
    transform: Mapped[dict[str, Any]]
    warnings: Mapped[list[str]]
    #: Storage EXTERNAL (migration 0004): PostgreSQL would try to compress it again.
    png: Mapped[bytes | None]
    #: Below the data directory, with its size in `file_bytes`.
    file_path: Mapped[str | None]
    file_bytes: Mapped[int | None]
    sha256: Mapped[str]

    __table_args__ = (
        # The image is in one place; another kind of place would be a further column.
        CheckConstraint(
            "num_nonnulls(png, file_path) = 1 AND num_nonnulls(png, file_bytes) = 1", name="image_in_one_place"
        ),
    )
