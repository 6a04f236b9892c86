"""Certificates: on which findings the error of a report was bounded, and for what; the same for answers."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, one_of
from db.states import INQUIRIES


class Certificate(Base):
    """Thresholds whose error was bounded on a set of cases; a row, so that one UPDATE suspends it for all workers.

    It holds for exactly one checkpoint, prompt, snapshot and labeller: the newest row with all four counts.
    """

    __tablename__ = "certificates"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    model_digest: Mapped[str]
    prompt_version: Mapped[str]
    #: Folder name of the snapshot. No foreign key: a report keeps the certificate of a snapshot that is gone.
    snapshot: Mapped[str]
    labeller: Mapped[str]
    #: Highest error and the probability that it is exceeded.
    alpha: Mapped[float]
    delta: Mapped[float]
    #: What, how many, where and from which seed.
    case_set: Mapped[dict[str, Any]]
    #: Figures by group of findings (worker.grounding.calibration).
    groups: Mapped[dict[str, Any]]
    #: Names of the findings that are common in the reference set.
    common: Mapped[list[str]]
    #: Sentence; NULL while it is valid.
    suspended_because: Mapped[str | None]
    created_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (
        CheckConstraint("alpha > 0 AND alpha < 1 AND delta > 0 AND delta < 1", name="alpha_and_delta_are_shares"),
        Index("certificates_by_model", "model_digest", "created_at"),
    )


class AnswerScaling(Base):
    """Scaling and limits of the confidence of answers, fitted on a set of cases; the newest row of a task holds.

    It holds for exactly one checkpoint, prompt, snapshot and labeller.
    """

    __tablename__ = "answer_scalings"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    task: Mapped[str]
    model_digest: Mapped[str]
    prompt_version: Mapped[str]
    #: Folder name of the snapshot; empty without an index.
    snapshot: Mapped[str]
    labeller: Mapped[str]
    #: Slope, offset and limit by kind of answer (db.answers.scaling).
    kinds: Mapped[dict[str, Any]]
    #: What, how many, where and from which seed.
    case_set: Mapped[dict[str, Any]]
    #: Sentence; NULL while it is valid.
    suspended_because: Mapped[str | None]
    created_at: Mapped[dt.datetime] = database_time()

    __table_args__ = (
        one_of("task", INQUIRIES),
        Index("answer_scalings_by_model", "model_digest", "task", "created_at"),
    )
