"""Earlier cases and the index snapshots built from them."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time


class ReferenceCase(Base):
    """An earlier case with its signed report; its vectors are in the index snapshots."""

    __tablename__ = "reference_cases"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    #: Collection and name of the case in it; loading a collection twice adds nothing.
    source: Mapped[str]
    source_case: Mapped[str]
    modality: Mapped[str]
    body_part: Mapped[str] = mapped_column(default="")
    #: SHA-256 of the Patient ID: enough to exclude cases of the same patient, and not reversible.
    patient_hash: Mapped[str] = mapped_column(default="")
    study_hash: Mapped[str] = mapped_column(default="")
    report: Mapped[str]
    labels: Mapped[list[str]]
    created_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (UniqueConstraint("source", "source_case"),)


class ReferenceSnapshot(Base):
    """A reference index on disk; the newest with the resident model's digest is used."""

    __tablename__ = "reference_snapshots"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    #: Relative to the data directory.
    directory: Mapped[str]
    model_digest: Mapped[str] = mapped_column(index=True)
    cases: Mapped[int]
    #: Figures measured at the build: how well the model reads each kind of study (worker.retrieval.validation).
    figures: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    created_at: Mapped[dt.datetime] = database_time()


class ReferenceErasure(Base):
    """A fingerprint of an erased case, its patient, its study or its images: no import brings it back."""

    __tablename__ = "reference_erasures"

    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    erased_at: Mapped[dt.datetime] = database_time()
    #: An operator admitted such cases again. The row stays: folders of backups have the erasure.
    readmitted_at: Mapped[dt.datetime | None]
