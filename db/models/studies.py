"""Studies, with the patient's attributes."""

import datetime as dt
import uuid

from sqlalchemy import CheckConstraint, Index, Integer, SmallInteger, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, ends_with_reason, one_of, time_ordered_id
from db.states import StudyState

ENDED_WITHOUT_REPORT = (StudyState.NOT_REPORTABLE, StudyState.FAILED, StudyState.CANCELLED)


class Study(Base):
    """A DICOM study, one row per Study Instance UID and identity.

    Two patients under one Study Instance UID are two rows. Patient attributes are in this table and in
    `identity_decisions` only, so that there are few places to protect and to erase.
    """

    __tablename__ = "studies"

    id: Mapped[uuid.UUID] = time_ordered_id()
    study_instance_uid: Mapped[str]
    #: 1 is the identity received first under the Study Instance UID.
    identity_number: Mapped[int] = mapped_column(SmallInteger, default=1)
    patient_id: Mapped[str] = mapped_column(default="")
    issuer_of_patient_id: Mapped[str] = mapped_column(default="")
    patient_name: Mapped[str] = mapped_column(default="")
    patient_birth_date: Mapped[str] = mapped_column(default="")
    patient_sex: Mapped[str] = mapped_column(default="")
    accession_number: Mapped[str] = mapped_column(default="")
    study_date: Mapped[str] = mapped_column(default="")
    study_description: Mapped[str] = mapped_column(default="")
    #: Reason for the requested procedure and its description (db.studies.imaging_request); NULL: received by a release
    #: that did not read them.
    indication: Mapped[str | None]
    requested_procedure: Mapped[str | None]
    #: Attributes above of which a header had a value that was too long to be read.
    not_read: Mapped[list[str]] = mapped_column(default=list, server_default=text("'{}'"))
    calling_ae_title: Mapped[str] = mapped_column(default="")
    modality: Mapped[str] = mapped_column(default="")
    body_part: Mapped[str] = mapped_column(default="")
    priority: Mapped[int] = mapped_column(SmallInteger, default=0)
    state: Mapped[str] = mapped_column(default=StudyState.RECEIVING)
    #: Number of times the study became complete; a report belongs to one revision.
    revision: Mapped[int] = mapped_column(Integer, default=1)
    first_received_at: Mapped[dt.datetime] = database_time()
    #: Start of the quiet time: when the latest object was indexed.
    last_received_at: Mapped[dt.datetime] = database_time()
    #: Start of the cap: when the current revision received its first image.
    revision_started_at: Mapped[dt.datetime] = database_time()
    #: Number of Study Related Instances (0020,1208), if the sender gave it.
    announced: Mapped[int | None] = mapped_column(Integer)
    #: When the transfer by an association broke off, and its id; NULL once the transfer is resumed or repeated.
    broken_off_at: Mapped[dt.datetime | None]
    broken_association_id: Mapped[str | None]
    settled_at: Mapped[dt.datetime | None]
    settle_reason: Mapped[str | None]
    #: A stable code (db.errors.Reason) and a sentence without patient data, if the study ended without a report.
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    #: Fields in which the identities of the Study Instance UID differ, while the study is held.
    differs: Mapped[list[str] | None]
    #: Versions of the current report and of the newest one with feedback, 0 for none; triggers keep them, so that the
    #: work list finds unread reports by an index.
    report_version: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    opened_version: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    #: A check or verdict of the current report marks the study (db.reports.versions); kept like `report_version`.
    is_marked: Mapped[bool] = mapped_column(server_default=text("false"))

    __table_args__ = (
        UniqueConstraint("study_instance_uid", "identity_number"),
        one_of("state", StudyState),
        ends_with_reason((*ENDED_WITHOUT_REPORT, StudyState.HELD)),
        CheckConstraint("state IN ('receiving', 'held') OR settle_reason IS NOT NULL", name="settled_has_a_reason"),
        # The dispatcher reads only the few studies that are still arriving.
        # Not on last_received_at, which changes with every object: such an update would change every index.
        # On the time that alarms compare.
        Index("studies_receiving", "revision_started_at", postgresql_where=text("state = 'receiving'")),
        # The work list: newest first, of any state or of one.
        Index("studies_newest", text("first_received_at DESC"), text("id DESC")),
        Index("studies_state_newest", "state", text("first_received_at DESC"), text("id DESC")),
        # The work list of a key for some AE titles only, and the filter by AE title.
        Index("studies_ae_title_newest", "calling_ae_title", text("first_received_at DESC"), text("id DESC")),
        # Filters and orders of the work list.
        Index("studies_modality_newest", "modality", text("first_received_at DESC"), text("id DESC")),
        Index("studies_body_part_newest", "body_part", text("first_received_at DESC"), text("id DESC")),
        Index("studies_urgency", text("priority DESC"), text("first_received_at DESC"), text("id DESC")),
        Index("studies_patient", "patient_id", postgresql_where=text("patient_id <> ''")),
        Index("studies_date", "study_date"),
        Index(
            "studies_description",
            text("to_tsvector('simple'::regconfig, study_description)"),
            postgresql_using="gin",
        ),
        Index(
            "studies_attention",
            text("first_received_at DESC"),
            text("id DESC"),
            postgresql_where=text("is_marked OR state IN ('held', 'failed')"),
        ),
        Index(
            "studies_unread",
            text("first_received_at DESC"),
            text("id DESC"),
            postgresql_where=text("state = 'reported' AND opened_version < report_version"),
        ),
        # Operators, RIS and PACS name a study by it.
        Index("studies_accession", "accession_number", postgresql_where=text("accession_number <> ''")),
    )
