"""Feedback of readers on reports, holds of studies, and the events of a study."""

import datetime as dt
import uuid

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Integer, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, one_of, time_ordered_id
from db.states import FeedbackKind


class ReportFeedback(Base):
    """An act of a reader on a version of a report, or the reader's own impression before the report; never changed."""

    __tablename__ = "report_feedback"

    id: Mapped[uuid.UUID] = time_ordered_id()
    # CASCADE: part of the study, which `prelim retain` deletes.
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    #: Version of the report; 0: an impression given before there was one.
    version: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str]
    #: Ordinal of the sentence from 1, if it is about one.
    sentence: Mapped[int | None] = mapped_column(SmallInteger)
    #: Text of the reader: the edited sentence, the final text, the impression; else empty.
    text: Mapped[str]
    #: Kind and name of the principal.
    author: Mapped[str]
    at: Mapped[dt.datetime] = database_time()

    __table_args__ = (
        one_of("kind", FeedbackKind),
        CheckConstraint("(kind IN ('edited', 'final', 'impression')) = (text <> '')", name="text_of_kind"),
        Index("report_feedback_study", "study_id", "version", "id"),
    )


class StudyHold(Base):
    """Hold of a study by a person: its drafts must not be accepted until a person releases it."""

    __tablename__ = "study_holds"

    id: Mapped[uuid.UUID] = time_ordered_id()
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    reason: Mapped[str]
    held_by: Mapped[str]
    held_at: Mapped[dt.datetime] = database_time()
    released_by: Mapped[str | None]
    released_at: Mapped[dt.datetime | None]

    __table_args__ = (
        CheckConstraint("(released_by IS NULL) = (released_at IS NULL)", name="release_is_complete"),
        # One open hold a study; readers look it up with every report.
        Index("study_holds_open", "study_id", unique=True, postgresql_where=text("released_at IS NULL")),
        Index("study_holds_study", "study_id"),
    )


class StudyEvent(Base):
    """Event in the life of a study, written by triggers; holds no patient data.

    *position* is its place in the order of publication, given after its transaction was committed: ids are drawn
    before, so that an event can become visible behind one with a greater id, and a reader would miss it.
    """

    __tablename__ = "study_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    #: received, state, report, feedback, hold, release.
    kind: Mapped[str]
    #: State of the study, version of the report, or kind of the feedback.
    detail: Mapped[str]
    author: Mapped[str]
    at: Mapped[dt.datetime] = database_time()
    position: Mapped[int | None] = mapped_column(unique=True)

    __table_args__ = (
        Index("study_events_study", "study_id", "id"),
        Index("study_events_unpublished", "id", postgresql_where=text("position IS NULL")),
    )
