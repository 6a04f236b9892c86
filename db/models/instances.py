"""Acknowledged files: instances of a study, files in quarantine, files to be deleted, and erased patients."""

import datetime as dt
import uuid

from sqlalchemy import ForeignKey, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, time_ordered_id


class Instance(Base):
    """One acknowledged SOP instance: one durable file, one row."""

    __tablename__ = "instances"

    id: Mapped[uuid.UUID] = time_ordered_id()
    # RESTRICT: a DELETE must not orphan files; deleting a study notes its files first (FileDeletion).
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
    #: True for an image SOP class (db.studies.sop_classes).
    reportable: Mapped[bool]
    #: True if its header has a Patient ID or a Patient's Name.
    identified: Mapped[bool] = mapped_column(default=True)
    #: Revision of the study in which it arrived.
    revision: Mapped[int] = mapped_column(Integer)
    #: Relative to the data directory. Unique: indexing a file twice makes one row.
    file_path: Mapped[str] = mapped_column(unique=True)
    file_bytes: Mapped[int]
    #: SHA-256, in hex, of transfer syntax and data set as received: equal for identical objects.
    sha256: Mapped[str]
    association_id: Mapped[str] = mapped_column(default="")
    calling_ae_title: Mapped[str] = mapped_column(default="")
    called_ae_title: Mapped[str] = mapped_column(default="")
    received_at: Mapped[dt.datetime]
    indexed_at: Mapped[dt.datetime] = database_time()
    #: SHA-256, in hex, of the bytes of the object in the object storage; NULL while there is none (db.storage).
    object_sha256: Mapped[str | None]
    #: When the file is next to be moved or, if there is an object, to be deleted from local disk; NULL: nothing to do.
    storage_due_at: Mapped[dt.datetime | None]

    # The files to move and those to delete; empty without an object storage.
    __table_args__ = (
        Index(
            "instances_to_move",
            "storage_due_at",
            postgresql_where=text("storage_due_at IS NOT NULL AND object_sha256 IS NULL"),
        ),
        Index(
            "instances_moved",
            "storage_due_at",
            postgresql_where=text("storage_due_at IS NOT NULL AND object_sha256 IS NOT NULL"),
        ),
    )


class Quarantined(Base):
    """An acknowledged file that became no instance: unreadable, or another object of a known SOP Instance UID."""

    __tablename__ = "quarantine"

    id: Mapped[uuid.UUID] = time_ordered_id()
    file_path: Mapped[str] = mapped_column(unique=True)
    file_bytes: Mapped[int]
    sha256: Mapped[str]
    sop_instance_uid: Mapped[str | None] = mapped_column(index=True)
    calling_ae_title: Mapped[str] = mapped_column(default="")
    reason: Mapped[str]
    detail: Mapped[str]
    received_at: Mapped[dt.datetime]
    indexed_at: Mapped[dt.datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)

    # The list of files in quarantine.
    __table_args__ = (Index("quarantine_received", text("received_at DESC"), "id"),)


class FileDeletion(Base):
    """A file whose row is deleted, until the file is deleted, too."""

    __tablename__ = "file_deletions"

    #: Relative to the data directory.
    file_path: Mapped[str] = mapped_column(primary_key=True)
    noted_at: Mapped[dt.datetime] = database_time()
    #: True if the object storage may have it, too.
    in_storage: Mapped[bool] = mapped_column(server_default=text("false"))


class PatientErasure(Base):
    """A fingerprint of an erased patient or study (db.studies.deletion.erasures): no object received before returns."""

    __tablename__ = "patient_erasures"

    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    erased_at: Mapped[dt.datetime] = database_time()
    #: NULL until everything is erased: the command was interrupted, or a restored backup had the patient.
    completed_at: Mapped[dt.datetime | None]
    #: When a folder of backups received it; a restore from that folder erases the patient again.
    backed_up_at: Mapped[dt.datetime | None]
