"""Predictions of specialist models about studies."""

import datetime as dt
import uuid

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, time_ordered_id


class SpecialistPrediction(Base):
    """A label of a specialist model; a trigger refuses UPDATE. It is shown to the model and trains nothing."""

    __tablename__ = "specialist_predictions"

    id: Mapped[uuid.UUID] = time_ordered_id()
    #: Study Instance UID or accession number: it may arrive before the study.
    study: Mapped[str]
    #: The study itself, if the sender named it. CASCADE: of no use without it.
    study_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    version: Mapped[str]
    label: Mapped[str]
    score: Mapped[float | None]
    #: Way by which it arrived, and of whom.
    source: Mapped[str]
    received_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (
        CheckConstraint("study <> ''", name="names_a_study"),
        CheckConstraint("score BETWEEN '-Infinity' AND 'Infinity'", name="score_is_a_number"),
        Index("specialist_predictions_study", "study", postgresql_where=text("study_id IS NULL")),
    )
